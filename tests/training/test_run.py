"""Run folders: which are taken, which are refused, and one checkpoint in the place of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import checkpoint_of, contents, folder_of, run_with

from clearwater.config import Config
from clearwater.errors import InputError
from clearwater.training import RunFolder, load_denoiser

# --- which folders are taken


def test_the_folder_of_a_run_keeps_its_configuration(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.seed=5")
    RunFolder.create(tmp_path / "new" / "run", config)
    assert RunFolder.open(tmp_path / "new" / "run").config() == config
    assert RunFolder.create(tmp_path / "new" / "run", config).config() == config


def test_a_run_with_other_settings_is_refused_and_the_settings_are_named(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    run_with(tmp_path, tiny())
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"model\.channels 16 and 32; training\.seed 0 and 4"):
        RunFolder.create(tmp_path, tiny("model.channels=32", "training.seed=4"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "config.toml", "checkpoints/000000001/config.toml"])
def test_a_folder_that_holds_something_else_is_refused_and_left_untouched(
    tiny: Callable[..., Config], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("baseURL = 'of something else'")
    before = contents(tmp_path)
    with pytest.raises(InputError) as caught:
        RunFolder.create(tmp_path, tiny())
    assert str(tmp_path) in str(caught.value)
    assert contents(tmp_path) == before


def test_a_configuration_that_is_no_text_is_refused(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"config\.toml"):
        RunFolder.create(tmp_path, tiny())
    with pytest.raises(InputError, match=r"config\.toml"):
        RunFolder.open(tmp_path).config()


def test_a_file_is_refused_where_a_run_folder_is_meant(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with pytest.raises(InputError, match="is a file"):
        RunFolder.create(tmp_path / "file", tiny())
    with pytest.raises(InputError, match="is not a run folder"):
        RunFolder.open(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "content"


def test_an_empty_folder_is_taken(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    assert RunFolder.create(tmp_path, config).config() == config


def test_a_folder_without_a_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(InputError, match="is not a run folder"):
        RunFolder.open(tmp_path)


def test_weights_that_do_not_fit_their_configuration_are_refused(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run_with(tmp_path, tiny())
    with pytest.raises(InputError, match=r"do not fit its config\.toml") as caught:
        load_denoiser(tmp_path, "cpu")
    assert len(str(caught.value).splitlines()) == 1


# --- one checkpoint of a run, in the place of the run


def test_a_checkpoint_can_be_opened_as_the_run_was_then(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    run_with(tmp_path / "run", config)
    for step in (2, 3):
        then = RunFolder.open(folder_of(tmp_path / "run", step))
        assert then.config() == config
        weights, place = then.model()
        assert place.step == step
        assert weights["b"].tolist() == checkpoint_of(step).averaged["b"].tolist()


def test_a_checkpoint_is_no_run_to_train_into(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    run_with(tmp_path / "run", config)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="one checkpoint of a run"):
        RunFolder.create(folder_of(tmp_path / "run", 3), config)
    assert contents(tmp_path) == before


def test_a_run_in_which_nothing_was_learned_takes_other_settings(tiny: Callable[..., Config], tmp_path: Path) -> None:
    RunFolder.create(tmp_path, tiny())
    corrected = tiny("training.learning_rate=1e-5", "model.channels=32")
    assert RunFolder.create(tmp_path, corrected).config() == corrected


def test_a_folder_that_is_held_by_another_process_is_refused(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, tiny())
    # A file that is opened once more is locked as if by another process.
    with run.held():
        with pytest.raises(InputError, match=r"Another process trains into .*wait until it has ended"):
            RunFolder.open(tmp_path).held().__enter__()
        with pytest.raises(InputError, match="Another process trains"):
            RunFolder.create(tmp_path, tiny("training.seed=4"))
        assert RunFolder.open(tmp_path).config() == tiny()
    with RunFolder.open(tmp_path).held():
        pass
