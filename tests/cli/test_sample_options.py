"""The options of `clearwater sample`: each makes the images that the library makes with what the option names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clearwater import (
    DDIM,
    AdaptiveODE,
    Ancestral,
    Chain,
    Clipped,
    Config,
    Denoiser,
    DPMSolver,
    Euler,
    Guided,
    Heun,
    NetworkDenoiser,
    SDEDPMSolver,
    SinglestepDPMSolver,
    Stepper,
    UniPC,
    fit_optimal_variance,
    load_denoiser,
    load_images,
    sample,
)
from clearwater.cli import run
from clearwater.data import pixel_values
from clearwater.pictures import to_uint8
from clearwater.randomness import ImageNoise
from clearwater.sampling import (
    SAMPLERS,
    ends,
    fitted_to_bound,
    fitted_to_path,
    karras,
    leading,
    log_snr,
    path_costs,
    quadratic,
)

Pixels = npt.NDArray[np.uint8]
SHAPE = (1, 8, 8)
CLASSES = ("1", "coat", "hat")  # so that "1" is the name of number 0
LEVELS = 60
N, SEED = 4, 3


@pytest.fixture(scope="module")
def home(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, and runs: with classes, one trained less, less without classes, one in colours."""
    home = tmp_path_factory.mktemp("options")
    drawn = np.random.default_rng(0)
    for i, name in enumerate(CLASSES):
        (home / "images" / name).mkdir(parents=True)
        for j in range(4):
            pixels = np.clip(20 + 100 * i + drawn.normal(0, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(home / "images" / name / f"{j}.png")
    for out, steps, *options in (("run", 200, "--labels"), ("weak", 40, "--labels"), ("plain", 40), ("colour", 1)):
        sets = ("objective=v", f"chain.levels={LEVELS}", f"training.steps={steps}", "training.learning_rate=4e-3")
        channels = f"data.channels={3 if out == 'colour' else 1}"
        (home / "tiny.toml").write_text(tiny(*sets, channels, "training.label_dropout=0.3").to_toml())
        where = ["--out", str(home / out), "--config", str(home / "tiny.toml"), "--device", "cpu"]
        assert run(["train", str(home / "images"), *where, *map(str, options)]) == 0
    return home


def _made(home: Path, out: Path, *options: str, of: str = "run", n: int = N) -> Pixels:
    """The images that the command writes, (N, H, W)."""
    arguments = ["--out", str(out), "--n", str(n), "--seed", str(SEED), "--device", "cpu"]
    assert run(["sample", str(home / of), *arguments, *options]) == 0
    paths = sorted(out.glob("[0-9]*.png"))
    assert len(paths) == n
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def _model(home: Path, name: str = "run", labels: Sequence[int] | None = None) -> NetworkDenoiser:
    told = None if labels is None else torch.tensor([labels[i % len(labels)] for i in range(N)])
    return replace(load_denoiser(home / name, "cpu"), labels=told)


def _expected(model: Denoiser, stepper: Stepper | None = None, chain: Chain | None = None) -> Pixels:
    """The library's samples of a model that is not clipped yet; by default as the command has it."""
    stepper, chain = stepper or UniPC(), chain or model.chain.strided(20)
    return to_uint8(sample(Clipped(model), N, SHAPE, seed=SEED, chain=chain, stepper=stepper))[:, 0].numpy()


# --- classes


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ("hat", [2]),
        ("hat,1,coat", [2, 0, 1]),
        ("0,2", [0, 2]),
        ("1", [0]),  # a name comes before a number
        ("coat, 2", [1, 2]),
        ("all", [0, 1, 2]),
    ],
)
def test_the_images_are_of_the_classes_in_turn(home: Path, tmp_path: Path, given: str, numbers: list[int]) -> None:
    made = _made(home, tmp_path, "--classes", given)
    np.testing.assert_array_equal(made, _expected(_model(home, labels=numbers)))
    assert json.loads((tmp_path / "samples.json").read_text())["classes"] == numbers


def test_without_classes_the_network_is_told_none_and_each_class_makes_other_images(home: Path, tmp_path: Path) -> None:
    untold = _made(home, tmp_path)
    np.testing.assert_array_equal(untold, _expected(_model(home)))
    of_each = [_expected(_model(home, labels=[label])) for label in range(3)]
    assert len({images.tobytes() for images in [untold, *of_each]}) == 4
    # As the data: each class is brighter than the one before.
    means = [float(images.mean()) for images in of_each]
    assert means[0] + 10 < means[1] < means[2] - 10


def test_the_classes_go_on_in_turn_from_batch_to_batch(home: Path, tmp_path: Path) -> None:
    made = _made(home, tmp_path, "--classes", "hat,1,coat", "--batch", "1")
    difference = made.astype(int) - _expected(_model(home, labels=[2, 0, 1]))
    # A kernel may add in another order in another batch: that moves no value by more than its rounding.
    assert np.abs(difference).max() <= 1


# --- guidance


def _guided(home: Path, *, scale: float, labels: Sequence[int] = (2, 0), **options: object) -> Guided:
    return Guided(_model(home, labels=labels), _model(home), scale, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--guidance", "2"], {"scale": 2.0}),
        (["--guidance", "0"], {"scale": 0.0}),
        (["--guidance", "3", "--guidance-interval", "0.2", "0.7"], {"scale": 3.0, "interval": (0.2, 0.7)}),
        (["--guidance", "3", "--guidance-rescale", "0.7"], {"scale": 3.0, "rescale": 0.7}),
        (["--guidance", "1"], {"scale": 1.0}),
    ],
)
def test_guidance_goes_away_from_no_class(
    home: Path, tmp_path: Path, options: list[str], expected: dict[str, float]
) -> None:
    made = _made(home, tmp_path, "--classes", "hat,1", *options)
    np.testing.assert_array_equal(made, _expected(_guided(home, **expected)))


def test_each_kind_of_guidance_makes_other_images(home: Path) -> None:
    guided = [
        _guided(home, scale=1.0),
        _guided(home, scale=3.0),
        _guided(home, scale=3.0, interval=(0.2, 0.7)),
        _guided(home, scale=3.0, rescale=0.7),
        Guided(_model(home, labels=[2, 0]), _model(home, "weak", [2, 0]), 3.0),
        Guided(_model(home, labels=[2, 0]), _model(home, "plain"), 3.0),
    ]
    assert len({_expected(each).tobytes() for each in guided}) == len(guided)


@pytest.mark.parametrize(
    ("of", "guide", "classes", "told"),
    [
        ("run", "weak", "hat,1", True),  # a guide that knows the same classes is told them
        ("run", "plain", "hat,1", False),
        ("run", "weak", None, False),
        ("plain", "weak", None, False),
    ],
)
def test_another_run_can_be_the_guide(
    home: Path, tmp_path: Path, of: str, guide: str, classes: str | None, told: bool
) -> None:
    options = ["--guidance", "3", "--guide", str(home / guide), *(["--classes", classes] if classes else [])]
    made = _made(home, tmp_path, *options, of=of)
    model = _model(home, of, [2, 0] if classes else None)
    np.testing.assert_array_equal(made, _expected(Guided(model, _model(home, guide, [2, 0] if told else None), 3.0)))


# --- samplers and grids


def _fitted_to_bound(home: Path, chain: Chain, steps: int) -> Chain:
    exactly = replace(load_denoiser(home / "run", "cpu"), autocast=None)
    images = pixel_values(load_images(home / "images").images)
    return fitted_to_bound(fit_optimal_variance(Clipped(exactly), images))(chain, steps)


def _fitted_to_path(home: Path, chain: Chain, steps: int) -> Chain:
    noises = [ImageNoise(0, range(first, first + 16), SHAPE, "cpu") for first in (0, 16)]
    costs = [path_costs(Clipped(load_denoiser(home / "run", "cpu")), noise) for noise in noises]
    return fitted_to_path((costs[0] + costs[1]) / 2)(chain, steps)


def _every(home: Path, chain: Chain) -> dict[str, tuple[Stepper, Chain]]:
    """What some command lines stand for."""
    trailing = chain.strided(20)
    return {
        "": (UniPC(2), trailing),
        "--sampler dpm++2m": (DPMSolver(2), trailing),
        "--sampler ddim": (DDIM(), trailing),
        "--sampler ddim --eta 0.5 --steps 7": (DDIM(0.5), chain.strided(7)),
        "--sampler euler --churn 3": (Euler(3.0), trailing),
        "--sampler heun --churn 0 --steps 9": (Heun(), chain.strided(9)),
        "--sampler dpm++3m --grid karras --steps 8": (DPMSolver(3), karras(chain, 8)),
        "--sampler dpm++2s --grid log_snr --steps 8": (SinglestepDPMSolver(), log_snr(chain, 8)),
        "--sampler dpm++2m-sde --steps 8": (SDEDPMSolver(), chain.strided(8)),
        "--grid quadratic": (UniPC(2), quadratic(chain, 20)),
        "--sampler unipc-bh1 --steps 5": (UniPC(2, "bh1"), chain.strided(5)),
        "--sampler ddim --grid leading --steps 10": (DDIM(), leading(chain, 10)),
        "--sampler ddim --grid all": (DDIM(), chain),
        "--sampler ancestral": (Ancestral(), chain),
        "--sampler ancestral --steps 12": (Ancestral(), chain.strided(12)),
        "--sampler adaptive --tolerance 0.01": (AdaptiveODE(0.01), ends(chain)),
        "--sampler ancestral --grid quadratic": (Ancestral(), quadratic(chain, 20)),
        "--grid bound --steps 6": (UniPC(2), _fitted_to_bound(home, chain, 6)),
        "--grid fitted --steps 6": (UniPC(2), _fitted_to_path(home, chain, 6)),
    }


def test_the_sampler_and_the_grid_are_those_that_are_named(home: Path, tmp_path: Path) -> None:
    model, seen = _model(home), set()
    for i, (options, (stepper, chain)) in enumerate(_every(home, model.chain).items()):
        made = _made(home, tmp_path / str(i), *options.split())
        np.testing.assert_array_equal(made, _expected(model, stepper, chain), err_msg=options)
        assert json.loads((tmp_path / str(i) / "samples.json").read_text())["steps"] == chain.T
        seen.add(made.tobytes())
    assert len(seen) == i + 1  # no two of them are the same


def test_a_chain_of_fewer_levels_is_gone_through_whole(trained: Path, tmp_path: Path) -> None:
    assert run(["sample", str(trained), "--out", str(tmp_path), "--n", "1", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "samples.json").read_text())["steps"] == 10


def test_the_list_explains_every_sampler_and_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["sample", "--list"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SAMPLERS)
    for line, entry in zip(lines, SAMPLERS.values(), strict=True):
        assert line.endswith(f" {entry.use}")
        assert line.split()[1] == str(entry.order or "-")
        assert entry.evaluations in line


def test_the_list_does_without_what_only_pictures_and_runs_need() -> None:
    script = """
import sys
from clearwater.cli import run
assert run(["sample", "--list"]) == 0
print(sorted({"matplotlib", "PIL", "safetensors", "torchdiffeq", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- refusals

# options, what the sentence names; HOME is the folder with the runs
WRONG = [
    ("--classes scarf", "'scarf'"),
    ("--classes 3", "'3'"),
    ("--classes hat,,coat", "''"),
    ("--classes -1", "'-1'"),
    ("--guidance 2", "--classes"),
    ("--classes hat --guidance 2 --guidance-interval 0.7 0.2", "(0.7, 0.2)"),
    ("--classes hat --guidance 2 --guidance-interval -0.1 1", "(-0.1, 1.0)"),
    ("--classes hat --guidance 2 --guidance-rescale 1.5", "1.5"),
    ("--classes hat --guidance nan", "nan"),
    ("--classes hat --guidance-rescale 0.5", "--guidance 2"),
    ("--classes hat --guidance-interval 0.2 0.7", "--guidance 2"),
    ("--sampler adaptive --steps 3", "--steps"),
    ("--sampler adaptive --grid all", "--grid"),
    ("--guidance 2 --guide HOME/none", "none"),
    ("--guidance 2 --guide HOME/images", "images"),
    ("--guidance 2 --guide HOME/colour", "colour"),
    ("--sampler magic", "'magic'"),
    ("--sampler heun --eta 0.5", "eta"),
    ("--eta 0.5", "eta"),
    ("--sampler ddim --churn 1", "churn"),
    ("--sampler ddim --tolerance 0.1", "tolerance"),
    ("--sampler ddim --eta 1.5", "1.5"),
    ("--sampler heun --churn -1", "-1"),
    ("--sampler adaptive --tolerance 0", "0.0"),
    ("--grid magic", "'magic'"),
    ("--grid all --steps 5", "5"),
    ("--grid leading --steps 61", "61"),
]


def _refused(of: Path, out: Path, options: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The only sentence that a refused command says; nothing is written."""
    capsys.readouterr()
    given = options.replace("HOME", str(of.parent)).split()
    assert run(["sample", str(of), "--out", str(out), "--n", "2", "--device", "cpu", *given]) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert said.out == ""
    assert not out.exists()
    return lines[-1].replace(str(of), "")


@pytest.mark.parametrize(("options", "named"), WRONG, ids=[options for options, _ in WRONG])
def test_what_cannot_be_is_one_sentence_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, named: str
) -> None:
    assert named in _refused(home / "run", tmp_path / "out", options, capsys)


@pytest.mark.parametrize("options", ["--classes hat", "--classes all", "--guidance 2 --classes 0"])
def test_classes_of_a_run_that_knows_none_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    assert "This run knows no classes" in _refused(home / "plain", tmp_path / "out", options, capsys)


def test_a_compiled_network_is_what_samples(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the compiler, which takes a minute: its network is asked, in batches of the sample's size."""
    asked: list[int] = []

    class Stand(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            y: torch.Tensor = self.network(x, time)
            return y

    plain = _made(home, tmp_path / "plain", "--steps", "4")
    monkeypatch.setattr(torch, "compile", Stand)
    np.testing.assert_array_equal(_made(home, tmp_path / "compiled", "--steps", "4", "--compile"), plain)
    assert asked == [N] * 5  # once to compile
    assert json.loads((tmp_path / "compiled" / "samples.json").read_text())["compiled"]


def test_a_compiler_that_fails_is_one_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(network: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    out = tmp_path / "out"
    assert run(["sample", str(home / "run"), "--out", str(out), "--device", "cpu", "--compile"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: The network cannot be compiled here (No working C++ compiler found): leave out")
    assert not out.exists()
