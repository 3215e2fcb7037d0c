"""`clearwater variance`: a network for the reverse variance of a run, and what is done with it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clearwater import Clipped, bound, load_denoiser, load_images, sample
from clearwater.cli import run
from clearwater.config import Config
from clearwater.denoisers import Denoiser
from clearwater.evaluation.unseen import some
from clearwater.objectives import VarianceBound
from clearwater.pictures import to_uint8
from clearwater.times import LowDiscrepancy
from clearwater.training import RunFolder, Trainer
from clearwater.training import trainer as trainer_module
from clearwater.training.loading import load_variance_network

Said = pytest.CaptureFixture[str]
STEPS = ("--steps", "20")


def _variance(folder: Path, *options: str) -> int:
    return run(["variance", str(folder), "--device", "cpu", *options])


@pytest.fixture(scope="module")
def with_variance(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a variance network; read it, don't change it."""
    folder = tmp_path_factory.mktemp("variance") / "run"
    shutil.copytree(trained, folder)
    assert _variance(folder, *STEPS) == 0
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A finished run without one."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").iterdir())
    return {**load_file(newest / "model.safetensors"), **load_file(newest / "state.safetensors")}


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _by_hand(folder: Path, inner: str, *, clip: bool = True) -> Denoiser:
    """The run's mean, with the variance of the network in the folder within."""
    rule = load_variance_network(folder / inner, torch.device("cpu"))
    model = replace(load_denoiser(folder, "cpu"), variance=rule)
    return Clipped(model) if clip else model


def _error(capsys: Said, *command: str) -> str:
    """The one sentence of a command that is refused."""
    capsys.readouterr()
    assert run([*command, "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (sentence,) = said.err.splitlines()
    assert sentence.startswith("Error: ")
    return sentence


def test_the_command_trains_the_network_that_the_library_trains(
    with_variance: Path, tiny: Callable[..., Config]
) -> None:
    """VarianceBound of the run's own clipped mean, on its own images, with the run's form of network."""
    mean = Clipped(load_denoiser(with_variance, "cpu"))
    config = tiny("data.size=28", "objective.loss=variance", "chain.variance=fixed_small", "training.steps=20")
    trainer = Trainer(
        config, load_images("fashion-mini"), torch.device("cpu"), objective=VarianceBound(mean, LowDiscrepancy())
    )
    list(trainer)
    saved = load_file(with_variance / "variance-000000008/checkpoints/000000020/model.safetensors")
    assert _same(saved, trainer.ema.parameters)
    assert RunFolder.open(with_variance / "variance-000000008").config() == config


def test_the_run_s_own_files_stay_as_they_were(with_variance: Path, trained: Path) -> None:
    own = {name: content for name, content in _contents(with_variance).items() if not name.startswith("variance-")}
    assert own == _contents(trained)


def test_the_bound_with_the_network_is_the_library_s(with_variance: Path, capsys: Said) -> None:
    options = ["--n", "6", "--json", "--device", "cpu"]
    assert run(["bound", str(with_variance), "fashion-mini", "--variance", "network", *options]) == 0
    said = json.loads(capsys.readouterr().out)
    held_out = some(load_images("fashion-mini", split="held_out"), 6)[0]
    expected = bound(_by_hand(with_variance, "variance-000000008"), held_out.double() / 127.5 - 1, batch=250)
    assert said["total"] == pytest.approx(expected.total, rel=1e-9)
    assert said["kl"] == pytest.approx(expected.kl.tolist(), rel=1e-9)
    assert said["variance"] == "network"
    assert run(["bound", str(with_variance), "fashion-mini", "--variance", "fixed_small", *options]) == 0
    # The mean of eight steps is far off, and a variance that knows it is better than one that does not.
    assert said["total"] < json.loads(capsys.readouterr().out)["total"] - 0.5


def test_the_bound_is_in_the_precision_of_the_weights_of_both_networks(
    with_variance: Path, tmp_path: Path, capsys: Said
) -> None:
    shutil.copytree(with_variance, tmp_path / "run")
    for config in (tmp_path / "run/config.toml", tmp_path / "run/variance-000000008/config.toml"):
        config.write_text(config.read_text().replace('precision = "fp32"', 'precision = "bf16"'))
        assert RunFolder.open(config.parent).config().training.precision == "bf16"
    totals = []
    for folder in (with_variance, tmp_path / "run"):
        command = ["bound", str(folder), "fashion-mini", "--variance", "network", "--n", "4", "--json"]
        assert run([*command, "--device", "cpu"]) == 0
        totals.append(json.loads(capsys.readouterr().out)["total"])
    assert totals[0] == totals[1]


def test_the_samples_with_the_network_are_the_library_s(with_variance: Path, tmp_path: Path) -> None:
    images = []
    for name, options in (("network", ["--variance", "network"]), ("own", [])):
        command = ["sample", str(with_variance), "--out", str(tmp_path / name), "--n", "3", "--seed", "5"]
        assert run([*command, "--sampler", "ancestral", "--steps", "6", "--device", "cpu", *options]) == 0
        images.append(np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("0*.png"))]))
    denoiser = _by_hand(with_variance, "variance-000000008")
    made = sample(denoiser, 3, (1, 28, 28), seed=5, chain=denoiser.chain.strided(6))
    np.testing.assert_array_equal(images[0], to_uint8(made)[:, 0].numpy())
    assert bool((images[0] != images[1]).any())


def test_before_it_is_trained_the_message_says_how(copied: Path, capsys: Said, tmp_path: Path) -> None:
    for command in (
        ["bound", str(copied), "fashion-mini"],
        ["sample", str(copied), "--out", str(tmp_path / "out"), "--sampler", "ancestral"],
    ):
        sentence = _error(capsys, *command, "--variance", "network")
        assert f"'{copied}' has no variance network" in sentence
        assert sentence.endswith(f" variance {copied}")
        assert _error(capsys, *command, "--variance", "network", "--no-clip").endswith(f" variance {copied} --no-clip")
    assert not (tmp_path / "out").exists()


def test_the_network_of_a_clipped_mean_is_not_taken_for_one_that_is_not(
    with_variance: Path, copied: Path, capsys: Said
) -> None:
    command = ["--variance", "network", "--no-clip"]
    assert "--no-clip" in _error(capsys, "bound", str(with_variance), "fashion-mini", *command)
    assert _variance(copied, "--steps", "3", "--no-clip") == 0
    assert (copied / "variance-000000008-unclipped").is_dir()
    capsys.readouterr()
    options = ["--n", "4", "--json", "--device", "cpu"]
    assert run(["bound", str(copied), "fashion-mini", *command, *options]) == 0
    held_out = some(load_images("fashion-mini", split="held_out"), 4)[0].double() / 127.5 - 1
    expected = bound(_by_hand(copied, "variance-000000008-unclipped", clip=False), held_out, batch=250)
    assert json.loads(capsys.readouterr().out)["total"] == pytest.approx(expected.total, rel=1e-9)
    assert "no variance network" in _error(capsys, "bound", str(copied), "fashion-mini", "--variance", "network")


def test_a_network_of_an_earlier_model_of_the_run_is_not_used(
    with_variance: Path, tmp_path: Path, capsys: Said
) -> None:
    """It knows the errors of another mean."""
    folder = tmp_path / "run"
    shutil.copytree(with_variance, folder)
    config = RunFolder.open(folder).config()
    (tmp_path / "tiny.toml").write_text(config.to_toml())
    command = ["train", "fashion-mini", "--out", str(folder), "--config", str(tmp_path / "tiny.toml"), "--steps", "9"]
    assert run([*command, "--device", "cpu"]) == 0
    assert "no variance network" in _error(capsys, "bound", str(folder), "fashion-mini", "--variance", "network")


def test_a_variance_network_is_no_run_of_its_own(with_variance: Path, tmp_path: Path, capsys: Said) -> None:
    inner = str(with_variance / "variance-000000008")
    for command in (
        ["bound", inner, "fashion-mini"],
        ["sample", inner, "--out", str(tmp_path / "out")],
        ["show", "reverse", inner, "--out", str(tmp_path / "a.png")],
        ["variance", inner, "--steps", "2"],
    ):
        sentence = _error(capsys, *command)
        assert f"'{inner}' holds a variance network" in sentence
        assert sentence.endswith("give the run it is in.")
    assert list(tmp_path.iterdir()) == []


def test_the_command_repeated_changes_nothing_and_with_more_steps_goes_on(copied: Path, capsys: Said) -> None:
    assert _variance(copied, "--steps", "12") == 0
    before = _contents(copied / "variance-000000008" / "checkpoints")
    assert _variance(copied, "--steps", "12") == 0
    assert _contents(copied / "variance-000000008" / "checkpoints") == before
    capsys.readouterr()
    assert _variance(copied, *STEPS) == 0
    assert "Going on from step 12." in capsys.readouterr().err
    assert max((copied / "variance-000000008/checkpoints").iterdir()).name == "000000020"


def test_an_interrupted_command_repeated_ends_as_if_unbroken(
    with_variance: Path, copied: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunFolder.log

    def interrupting(self: RunFolder, entry: dict[str, float]) -> None:
        log(self, entry)
        if entry["step"] == 7:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(trainer_module, "_REPORT_SECONDS", 0.0)
        patched.setattr(RunFolder, "log", interrupting)
        assert _variance(copied, *STEPS) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Interrupted and saved after step 7: repeat the command to go on."
    )
    assert _variance(copied, *STEPS) == 0
    assert "Going on from step 7." in capsys.readouterr().err
    inner = "variance-000000008"
    assert _same(_weights(copied / inner), _weights(with_variance / inner))


def test_what_to_do_next_is_said(copied: Path, capsys: Said) -> None:
    assert _variance(copied, "--steps", "1") == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"Trained: '{copied / 'variance-000000008'}'.")
    assert last.endswith(f" bound {copied} fashion-mini --variance network")


@pytest.mark.parametrize(
    "sets",
    [["objective=hybrid"], ["objective=vlb", "chain.name=learned"], ["objective=euclidean"]],
    ids=["learned range", "learned chain", "mean"],
)
def test_every_kind_of_run_can_have_one_on_its_own_levels(
    tiny: Callable[..., Config], tmp_path: Path, capsys: Said, sets: list[str]
) -> None:
    folder = tmp_path / "run"
    (tmp_path / "tiny.toml").write_text(tiny("data.size=28", *sets).to_toml())
    options = ["--out", str(folder), "--config", str(tmp_path / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options]) == 0
    assert _variance(folder, "--steps", "2") == 0
    inner = folder / "variance-000000008"
    settings = RunFolder.open(inner).config()
    objective = VarianceBound(Clipped(load_denoiser(folder, "cpu")), LowDiscrepancy())
    trainer = Trainer(settings, load_images("fashion-mini"), torch.device("cpu"), objective=objective)
    list(trainer)
    assert _same(load_file(inner / "checkpoints/000000002/model.safetensors"), trainer.ema.parameters)
    capsys.readouterr()
    command = ["bound", str(folder), "fashion-mini", "--variance", "network", "--n", "2", "--json", "--device", "cpu"]
    assert run(command) == 0
    held_out = some(load_images("fashion-mini", split="held_out"), 2)[0].double() / 127.5 - 1
    expected = bound(_by_hand(folder, inner.name), held_out, batch=250)
    assert json.loads(capsys.readouterr().out)["total"] == pytest.approx(expected.total, rel=1e-9)


def test_a_learned_range_of_a_run_without_channels_for_it_is_one_sentence(
    trained: Path, tmp_path: Path, capsys: Said
) -> None:
    for command in (
        ["bound", str(trained), "fashion-mini", "--n", "2"],
        ["sample", str(trained), "--out", str(tmp_path), "--sampler", "ancestral"],
    ):
        capsys.readouterr()
        assert run([*command, "--variance", "learned_range", "--device", "cpu"]) == 2
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        (sentence,) = [line for line in said.err.splitlines() if line.startswith("Error: ")]
        assert sentence == said.err.splitlines()[-1]
        assert "no channels for a learned range" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps", "3", "--minutes", "1"], "give one of the two"),
        (["--minutes", "0"], "--minutes is above zero"),
        (["--minutes", "-1"], "--minutes is above zero"),
        (["--minutes", "nan"], "--minutes is above zero"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_an_end_that_cannot_be_is_refused_and_nothing_is_written(
    copied: Path, capsys: Said, options: list[str], said: str
) -> None:
    before = _contents(copied)
    assert said in _error(capsys, "variance", str(copied), *options)
    assert _contents(copied) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: Said) -> None:
    assert "does not exist" in _error(capsys, "variance", str(tmp_path / "none"))
    assert "not a run folder" in _error(capsys, "variance", str(tmp_path))
