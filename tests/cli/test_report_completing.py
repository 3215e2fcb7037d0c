"""`clearwater report` makes what the page lacks, and the page names the commands that make it again."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reports import Element, parsed, titles

from clearwater.cli import completing, run
from clearwater.cli import writing as writing_module
from clearwater.config import Config
from clearwater.evaluation.results import results
from clearwater.pictures import step_of
from clearwater.training import RunFolder, load_denoiser

Said = pytest.CaptureFixture[str]
PICTURES = ("forward.png", "nearest.png", "reverse.png")


@pytest.fixture(scope="module")
def home(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which twelve are held out, a run of them, and its page with all that was lacking."""
    home = tmp_path_factory.mktemp("completing")
    (home / "images").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (240, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(home / "images" / f"{i}.png")
    (home / "tiny.toml").write_text(tiny("chain.levels=30").to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    assert run(["train", str(home / "images"), *options]) == 0
    for name in PICTURES:
        (home / "run" / name).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completing, "_SAMPLES", 40)
        assert run(["report", str(home / "run"), "--device", "cpu"]) == 0
    return home


@pytest.fixture
def bare(home: Path, tmp_path: Path) -> Path:
    """The run with nothing measured and nothing drawn."""
    folder = shutil.copytree(home / "run", tmp_path / "bare")
    shutil.rmtree(folder / "measured")
    for name in (*PICTURES, "report.html"):
        (folder / name).unlink()
    return folder


def _page(folder: Path) -> Element:
    return parsed((folder / "report.html").read_text(encoding="utf-8"))


def _commands(folder: Path) -> dict[str, list[str]]:
    """The commands behind the figures by their first words."""
    listed = [shlex.split(each.text)[1:] for how in _page(folder).all("details", "how") for each in how.all("pre")]
    return {" ".join(words[:2] if words[0] == "show" else words[:1]): words for words in listed}


def test_all_sections_are_there(home: Path) -> None:
    page = _page(home / "run")
    heads = [head.text for head in page.all("h2")]
    assert heads == [
        "Samples", "Fidelity", "Nearest training images", "Into noise and out of it", "The bound by level", "Training",
        "Cost", "What next", "Settings",
    ]  # fmt: skip
    assert titles(page)[:2] == ["Terms by level", "Adding up, from noise to data"]
    assert {step_of(home / "run" / name) for name in PICTURES} == {8}
    (measured,), (bound,) = (results(home / "run", kind) for kind in ("fidelity", "bound"))
    assert (measured.step, bound.step) == (8, 8)
    assert measured.found["images"] == {"samples": 40, "data": 228, "held-out": 12}
    assert (bound.found["images"], bound.found["split"], bound.found["variance"]) == (12, "held_out", "optimal")
    assert "-log p of 12 images held out is at most" in page.text


def test_the_commands_on_the_page_find_the_same_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = _commands(home / "run")
    before = {kind: results(home / "run", kind)[0].found for kind in ("fidelity", "bound")}
    for kind, name in (("fidelity", "measure"), ("bound", "bound")):
        assert commands[name][1] == str(home / "run")
        assert run(commands[name]) == 0
        (again,) = results(home / "run", kind)
        assert again.found == before[kind]
    for name in ("forward", "reverse"):
        assert run(commands[f"show {name}"]) == 0
        drawn, shown = (np.asarray(Image.open(folder / f"{name}.png")) for folder in (tmp_path, home / "run"))
        np.testing.assert_allclose(drawn.astype(int), shown.astype(int), atol=1)


def test_the_strips_go_from_data_to_noise_and_from_noise_to_the_samples(home: Path, tmp_path: Path) -> None:
    forward, reverse = (_cells(home / "run" / f"{name}.png") for name in ("forward", "reverse"))
    assert (forward.shape[:2], reverse.shape[:2]) == ((4, 11), (8, 11))
    data = {np.asarray(Image.open(path)).tobytes() for path in (home / "images").iterdir()}
    assert len({cell.tobytes() for cell in forward[:, 0]} & data) == 4
    # Of N(0, 1) that is clipped to [-1, 1] 0.3173 are black or white, and the mean is grey: 256 values, 4 deviations.
    for noise in (forward[:, -1], reverse[::2, 0]):
        assert ((noise == 0) | (noise == 255)).mean() == pytest.approx(0.3173, abs=4 * (0.3173 * 0.6827 / 256) ** 0.5)
        assert noise.mean() == pytest.approx(127.5, abs=4 * 127.5 * 0.72 / 16)
    words = _commands(home / "run")["sample"]
    out = tmp_path / "samples"
    assert run([*words[: words.index("--out") + 1], str(out), *words[words.index("--out") + 2 :]]) == 0
    samples = np.stack([np.asarray(Image.open(out / f"{i:06d}.png")) for i in range(4)])
    np.testing.assert_array_equal(reverse[::2, -1], samples)
    np.testing.assert_allclose(reverse[1::2, -1].astype(int), samples.astype(int), atol=1)


def _cells(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The images of a strip of eleven columns: (rows, columns, 8, 8)."""
    pixels = np.asarray(Image.open(path))
    factor = pixels.shape[1] // (11 * 10 + 2)
    small = pixels[::factor, ::factor][2:, 2:]
    return small.reshape(-1, 10, 11, 10)[:, :8, :, :8].swapaxes(1, 2)


def test_what_is_there_is_not_made_again(home: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completing, "_SAMPLES", 40)
    capsys.readouterr()
    assert run(["report", str(home / "run")]) == 0
    assert capsys.readouterr().err == f"Wrote '{home / 'run' / 'report.html'}': open it in a browser.\n"


def test_a_person_s_figures_of_fewer_images_are_not_taken_for_the_page_s(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(home / "run", tmp_path / "run")
    shutil.rmtree(folder / "measured")
    assert run(["measure", str(folder), "--n", "30", "--device", "cpu"]) == 0
    assert run(["bound", str(folder), str(home / "images"), "--n", "3", "--device", "cpu"]) == 0
    monkeypatch.setattr(completing, "_SAMPLES", 40)
    assert run(["report", str(folder), "--device", "cpu"]) == 0
    assert {each.found["images"]["samples"] for each in results(folder, "fidelity")} == {30, 40}
    assert {each.found["images"] for each in results(folder, "bound")} == {3, 12}
    assert "40 samples" in _page(folder).text


def test_what_is_decoded_is_kept_where_the_person_says(bare: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kept"
    assert run(["report", str(bare), "--cache", str(cache), "--device", "cpu"]) == 0
    assert (cache / "features").is_dir()
    assert all(
        command[command.index("--cache") + 1] == str(cache)
        for command in (each.command for kind in ("fidelity", "bound") for each in results(bare, kind))
    )


def test_quick_makes_nothing(bare: Path) -> None:
    assert run(["report", str(bare), "--quick"]) == 0
    assert not (bare / "measured").exists()
    assert not any((bare / name).exists() for name in PICTURES)
    section = next(each for each in _page(bare).all("section") if each.all("h2")[0].text == "Fidelity")
    assert "not measured yet" in section.text


def test_without_the_data_the_page_has_what_does_without(bare: Path, capsys: Said) -> None:
    text = (bare / "config.toml").read_text()
    gone = str(bare.parent / "gone")
    (bare / "config.toml").write_text(text.replace(RunFolder.open(bare).config().data.source, gone))
    capsys.readouterr()
    assert run(["report", str(bare), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    for what in ("The pictures", "The figures of its samples", "The bound"):
        assert f"{what} could not be made, and the page goes without: " in said
    assert f"'{gone}' does not exist" in said
    assert "Settings" in _page(bare).text


def test_an_interruption_goes_on_to_the_page(bare: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing_module, "_make", interrupted)  # while the samples are made
    assert run(["report", str(bare), "--device", "cpu"]) == 130
    assert "Interrupted: the page is of what is there; the same command goes on." in capsys.readouterr().err
    assert "Into noise and out of it" in _page(bare).text
    assert not results(bare, "bound")

    for early in ("_pictures", "load_network"):
        monkeypatch.setattr(completing, early, interrupted)
        (bare / "report.html").unlink()
        assert run(["report", str(bare), "--device", "cpu"]) == 130
        assert (bare / "report.html").is_file()


def test_what_takes_too_long_is_left_to_the_person(bare: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completing, "_PATIENCE", 1e-9)
    assert run(["report", str(bare), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert f"`clearwater measure {bare} --n 2000` does it if you have the time." in said
    assert re.search(rf"The bound would take about \d+ s here: `clearwater bound {re.escape(str(bare))} ", said)
    assert not (bare / "measured").exists()


def test_a_model_of_classes_is_measured_by_samples_of_all_of_them(
    bare: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunFolder.open(bare).config()
    data = config.data.model_copy(update={"labels": True, "classes": ("a", "b")})
    (bare / "config.toml").write_text(config.model_copy(update={"data": data}).to_toml())
    ran: list[list[str]] = []
    monkeypatch.setattr(completing, "_run", ran.append)
    monkeypatch.setattr(completing, "_pictures", lambda newest: None)
    monkeypatch.setattr(
        completing, "load_network", lambda folder, *rest, **more: load_denoiser(bare.parent / "plain", "cpu")
    )
    shutil.copytree(bare, bare.parent / "plain")
    (bare.parent / "plain" / "config.toml").write_text(config.to_toml())
    assert run(["report", str(bare), "--device", "cpu"]) == 0
    assert ran[0] == ["measure", str(bare), "--n", "2000", "--classes", "all", "--device", "cpu"]


def test_a_run_in_training_is_left_in_peace(bare: Path, capsys: Said) -> None:
    with RunFolder.open(bare).held():
        assert run(["report", str(bare), "--device", "cpu"]) == 0
    assert "The page is of what is in the folder: Another process trains" in capsys.readouterr().err
    assert not (bare / "forward.png").exists()


def test_a_run_without_a_checkpoint_has_its_page(bare: Path, capsys: Said) -> None:
    shutil.rmtree(bare / "checkpoints")
    assert run(["report", str(bare), "--device", "cpu"]) == 0
    assert "has no checkpoint that can be read" in capsys.readouterr().err
    assert "Fidelity" not in [head.text for head in _page(bare).all("h2")]
