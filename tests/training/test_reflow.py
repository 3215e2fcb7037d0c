"""Reflow: a flow is trained on the noise that each of its images was made of (Liu et al. 2022, algorithm 1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearwater.cli import run
from clearwater.cli.loading import Keeping
from clearwater.config import Config
from clearwater.data import load_images
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.objectives import SquaredError
from clearwater.randomness import ImageNoise, Randomness, normal_like
from clearwater.training import RunFolder, Trainer

CPU = torch.device("cpu")
_FLOW = ("chain.name=flow", "objective.target=velocity", "objective.weight=unweighted", "objective.times=uniform")


@pytest.fixture(scope="module")
def home(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow, and samples of it, of another seed than any that training draws from."""
    home = tmp_path_factory.mktemp("reflow")
    (home / "tiny.toml").write_text(tiny("data.size=8", *_FLOW).to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options]) == 0
    for name, more in (("pairs", ["--sampler", "rk4"]), ("noisy", ["--sampler", "euler", "--churn", "2"])):
        options = ["--n", "11", "--seed", "7", "--steps", "3", "--device", "cpu", *more]
        assert run(["sample", str(home / "run"), "--out", str(home / name), *options]) == 0
    return home


class _Recording(SquaredError):  # noqa: N818 - an objective
    seen: list[tuple[Tensor, Tensor]]

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        self.seen.append((x_0.clone(), normal_like(x_0, source)))
        self.seen.append((x_0.clone(), normal_like(x_0, source)))  # a second draw is of no image
        return torch.zeros(len(x_0), requires_grad=True)


@pytest.mark.parametrize("parts", [None, 3])
def test_every_image_has_the_noise_that_it_was_made_of(
    home: Path, tiny: Callable[..., Config], parts: int | None
) -> None:
    sets = ["training.batch=5", "training.steps=6", *([f"training.microbatch={parts}"] if parts else [])]
    config = tiny("data.size=8", "data.channels=1", *_FLOW, "objective.coupling=reflow", *sets)
    config = config.model_copy(update={"data": config.data.model_copy(update={"source": str(home / "pairs")})})
    images = load_images(home / "pairs", held_out=0)
    objective = _Recording()
    object.__setattr__(objective, "seen", [])
    list(Trainer(config, images, CPU, objective=objective))
    pixels = images.images.float() / 127.5 - 1
    met = set()
    for i, (x_0, eps) in enumerate(objective.seen):
        numbers = [int((pixels == row).flatten(1).all(1).nonzero()[0]) for row in x_0]
        own = ImageNoise(7, numbers, (1, 8, 8), CPU)()
        assert torch.equal(eps, own) == (i % 2 == 0)
        met |= set(numbers)
    assert met == set(range(11))


def test_the_command_trains_on_pairs_and_the_run_can_be_sampled_in_one_step(home: Path, tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "second"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    options += ["--from", str(home / "run"), "--set", "objective.coupling=reflow"]
    assert run(["train", str(home / "pairs"), *options]) == 0
    one_step = ["--sampler", "euler", "--steps", "1", "--n", "4", "--device", "cpu"]
    assert run(["sample", str(tmp_path / "second"), "--out", str(tmp_path / "samples"), *one_step]) == 0


def test_the_second_round_of_a_flow_that_knows_classes_is_told_those_of_the_pairs(home: Path, tmp_path: Path) -> None:
    common = ["--config", str(home / "tiny.toml"), "--device", "cpu", "--labels"]
    first, pairs, second = (str(tmp_path / name) for name in ("first", "pairs", "second"))
    assert run(["train", "fashion-mini", "--out", first, *common]) == 0
    names = RunFolder.open(Path(first)).config().data.classes
    assert names is not None
    assert names != tuple(sorted(names))  # as they would be numbered in a folder
    three = [names[i] for i in (7, 0, 5)]
    options = ["--n", "8", "--steps", "2", "--device", "cpu", "--classes", "7,0,5"]
    assert run(["sample", first, "--out", pairs, *options]) == 0
    named = json.loads((tmp_path / "pairs" / "labels.json").read_text())
    assert named == {f"{i:06d}.png": three[i % 3] for i in range(8)}
    again = ["--out", second, "--from", first, "--set", "objective.coupling=reflow"]
    assert run(["train", pairs, *common, *again]) == 0
    config = RunFolder.open(Path(second)).config()
    assert config.data.classes == names
    for keeping in (Keeping(tmp_path / "cache"), Keeping(streams=True)):
        images = keeping.open(config.data, quiet=True)
        assert images.labels is not None
        assert images.labels.tolist() == [7, 0, 5, 7, 0, 5, 7, 0]
        assert images.classes == names


def test_the_second_round_on_colours_is_not_flipped_by_their_recipe(home: Path, tmp_path: Path) -> None:
    common = ["--config", str(home / "tiny.toml"), "--device", "cpu", "--set", "data.channels=3"]
    first, pairs, second = (str(tmp_path / name) for name in ("first", "pairs", "second"))
    assert run(["train", "fashion-mini", "--out", first, *common]) == 0
    assert run(["sample", first, "--out", pairs, "--n", "5", "--steps", "2", "--device", "cpu"]) == 0
    more = ["--device", "cpu", "--from", first, "--steps", "2", "--set", "objective.coupling=reflow"]
    assert run(["train", pairs, "--out", second, *more]) == 0
    assert not RunFolder.open(Path(second)).config().data.flip


def test_new_noise_in_a_flow_with_chosen_noise_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "optimal"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options, "--set", "objective.coupling=optimal"]) == 0
    coupled, image = str(tmp_path / "optimal"), str(home / "pairs" / "000000.png")
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    for words, why in (
        (["sample", coupled, *out, "--sampler", "ancestral"], "the sampler ancestral adds noise"),
        (["sample", coupled, *out, "--sampler", "ddim", "--eta", "0.5"], "the sampler ddim adds noise"),
        (["sample", coupled, *out, "--from", image], "--from gives an image noise"),
        (["restore", coupled, image, *out, "--blur", "1"], "restoring gives an image noise"),
        (["compare", coupled, "--sampler", "dpm++2m-sde", "--out", str(tmp_path / "a.png"), "--device", "cpu"], "adds"),
    ):
        capsys.readouterr()
        assert run(words) == 2
        said = capsys.readouterr().err
        assert "is a flow from its noise alone" in said
        assert why in said
    assert not (tmp_path / "out").exists()
    for more, told in (([], True), (["--ode", "--tolerance", "0.1"], False)):
        capsys.readouterr()
        assert run(["bound", coupled, "fashion-mini", "--n", "2", "--device", "cpu", *more]) == 0
        assert ("but --ode is nearer" in " ".join(capsys.readouterr().err.split())) == told
    for sampler in ("rk4", "ddim"):
        options = ["--n", "2", "--steps", "2", "--sampler", sampler, "--out", str(tmp_path / sampler)]
        assert run(["sample", coupled, *options, "--device", "cpu"]) == 0


def test_what_is_no_pair_is_refused_in_a_sentence(
    home: Path, tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(data: Path | str, *sets: str) -> str:
        capsys.readouterr()
        options = ["--out", str(tmp_path / "out"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
        settings = [word for text in ("objective.coupling=reflow", *sets) for word in ("--set", text)]
        assert run(["train", str(data), *options, *settings]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said.strip().splitlines()[-1]

    assert "made with new noise on the way" in refused(home / "noisy")
    assert "is no sample whose noise is known" in refused("fashion-mini")
    assert "images are not flipped or held out" in refused(home / "pairs", "data.flip=true")
    assert "(1, 8, 8) (C, H, W), and were loaded as (1, 16, 16)" in refused(home / "pairs", "data.size=16")
    assert "chosen for them as they are" in refused("fashion-mini", "objective.coupling=optimal", "data.augment=0.1")
    (home / "pairs" / "000010.png").rename(tmp_path / "000010.png")
    try:
        assert "has 10 images and should have 11" in refused(home / "pairs")
    finally:
        (tmp_path / "000010.png").rename(home / "pairs" / "000010.png")
    with pytest.raises(InputError, match="the bound is of independent noise"):
        Trainer(
            tiny("data.size=8", "data.channels=1", "objective.loss=vlb", "objective.coupling=optimal"),
            load_images(home / "pairs", held_out=0),
            CPU,
        )
