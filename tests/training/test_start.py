"""Fine-tuning: a run that begins with the weights of another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clearwater.cli import run
from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import InputError
from clearwater.training import RunFolder, Trainer, load_denoiser

Tiny = Callable[..., Config]
CPU = torch.device("cpu")


def _images(*, labels: int = 0) -> ImageSet:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8))
    names = tuple("abcdefgh"[:labels])
    return ImageSet(images, torch.arange(10) % labels if labels else None, names)


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer._parameters.items()}


def test_weights_and_their_average_begin_with_those_that_are_given(tiny: Tiny) -> None:
    config = tiny()
    before = Trainer(config, _images(), CPU)
    list(before)
    started = Trainer(config, _images(), CPU, start=before.ema.parameters)
    for name, value in before.ema.parameters.items():
        assert torch.equal(_weights(started)[name], value)
        assert torch.equal(started.ema.parameters[name], value)
    assert (started.step, started.images_seen) == (0, 0)
    beginning = started._beginning()
    assert all(torch.equal(beginning.network[name], value) for name, value in before.ema.parameters.items())


def test_a_learned_chain_comes_along(tiny: Tiny) -> None:
    config = tiny("objective=vlb", "chain.name=learned", "chain.levels=5", "chain.variance=fixed_small")
    before = Trainer(config, _images(), CPU)
    list(before)
    started = Trainer(config, _images(), CPU, start=before.ema.parameters)
    assert torch.equal(_weights(started)["chain.start"], before.ema.parameters["chain.start"])


@pytest.mark.parametrize(("there", "here"), [(3, 2), (0, 2), (2, 0)])
def test_other_classes_begin_anew_and_all_else_does_not(tiny: Tiny, there: int, here: int) -> None:
    def config(classes: int) -> Config:
        names = ["data.labels=true", f"data.classes={list('abcdefgh'[:classes])}"] if classes else []
        return tiny(*names)

    before = Trainer(config(there), _images(labels=there), CPU)
    list(before)
    started = _weights(Trainer(config(here), _images(labels=here), CPU, start=before.ema.parameters))
    fresh = _weights(Trainer(config(here), _images(labels=here), CPU))
    for name, value in started.items():
        assert torch.equal(value, fresh[name] if name == "label.weight" else before.ema.parameters[name]), name
    assert ("label.weight" in started) == (here > 0)


def test_weights_of_another_network_are_refused_in_a_sentence(tiny: Tiny) -> None:
    before = Trainer(tiny(), _images(), CPU)
    with pytest.raises(
        InputError, match=r"^The run to start from has another network: .*, here of shape .* has shape .*\.$"
    ):
        Trainer(tiny("model.channels=32"), _images(), CPU, start=before.ema.parameters)
    with pytest.raises(InputError, match=r"is missing"):
        Trainer(tiny("model.blocks=2"), _images(), CPU, start=before.ema.parameters)


def test_the_command_takes_the_model_of_the_run_and_trains_on(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "fine"
    options = ["--from", str(trained), "--out", str(out), "--set", "training.learning_rate=1e-12", "--device", "cpu"]
    assert run(["train", "fashion-mini", *options, "--steps", "2"]) == 0
    ours, theirs = RunFolder.open(out).config(), RunFolder.open(trained).config()
    assert (ours.model, ours.chain, ours.objective) == (theirs.model, theirs.chain, theirs.objective)
    assert ours.training.start == str(trained.resolve())
    begun = dict(load_denoiser(trained, "cpu").network.named_parameters())
    for name, value in load_denoiser(out, "cpu", weights="raw").network.named_parameters():
        assert torch.equal(value, begun[name]) or float((value - begun[name]).abs().max()) < 1e-9
    assert run(["train", "fashion-mini", *options, "--steps", "3"]) == 0  # and goes on, not from the start again
    assert RunFolder.open(out).model()[1].step == 3


def test_a_run_to_start_from_that_is_none_is_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for start, more, named in (
        (tmp_path / "none", [], "none"),
        (trained, ["--set", "model.channels=32"], "another network"),
    ):
        command = ["train", "fashion-mini", "--out", str(tmp_path / "out"), "--from", str(start), "--steps", "1", *more]
        assert run([*command, "--device", "cpu"]) == 2
        assert named in capsys.readouterr().err.splitlines()[-1]
