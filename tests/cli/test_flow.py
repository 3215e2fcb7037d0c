"""A flow through the commands that diffusion has: trained, shown, sampled, measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearwater import DDIM, Clipped, Config, Velocity, bound, load_denoiser, load_images, sample
from clearwater.cli import run
from clearwater.cli.writing import fingerprint
from clearwater.evaluation.unseen import some
from clearwater.ode_likelihood import flow_likelihood
from clearwater.randomness import ImageNoise
from clearwater.sampling import shifted


def chosen(n: int) -> torch.Tensor:
    """The images that --n takes, in [-1, 1]."""
    return some(load_images("fashion-mini", split="held_out"), n)[0].double() / 127.5 - 1


@pytest.fixture(scope="module")
def flow(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    (folder / "tiny.toml").write_text(tiny("data.size=28", "objective=flow").to_toml())
    options = ["--out", str(folder / "run"), "--config", str(folder / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options]) == 0
    return folder / "run"


def test_the_run_is_of_the_straight_path_and_its_velocity(flow: Path) -> None:
    denoiser = load_denoiser(flow, "cpu")
    assert isinstance(denoiser.target, Velocity)
    assert denoiser.chain.levels.alpha.tolist() == pytest.approx([1 - k / 10 for k in range(11)], abs=1e-15)
    assert denoiser.chain.schedule is not None


def test_ddim_on_it_is_euler_s_method_for_the_network_s_velocity(flow: Path) -> None:
    """x_{t-h} = x_t - h · v(x_t, t), which is all that a sampler of rectified flow is."""
    denoiser = load_denoiser(flow, "cpu")
    made = sample(denoiser, 3, (1, 28, 28), seed=4, stepper=DDIM())
    x = ImageNoise(4, range(3), (1, 28, 28), torch.device("cpu"))()
    with torch.inference_mode():
        for k in range(10, 0, -1):
            x = x - 0.1 * denoiser.network(x, torch.full((3,), k / 10))
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "rk4", "--steps", "1"], None),  # no level between: Euler's step
        (["--sampler", "midpoint", "--steps", "1"], None),
        (["--grid", "log_snr", "--steps", "1"], "no level with signal"),
        (["--grid", "karras", "--steps", "1"], "no level with signal"),
    ],
)
def test_a_flow_of_one_level_is_sampled_in_one_step_or_refused(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str | None
) -> None:
    words = ["--config", str(flow.parent / "tiny.toml"), "--device", "cpu", "--set", "chain.levels=1"]
    assert run(["train", "fashion-mini", "--out", str(tmp_path / "run"), "--steps", "1", *words]) == 0
    capsys.readouterr()
    made = ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--n", "1", "--device", "cpu", *options]
    assert run(made) == (0 if said is None else 2)
    assert said is None or said in capsys.readouterr().err


def test_the_shifted_grid_is_shifted_as_the_times_were_or_as_it_is_told(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(flow.parent / "tiny.toml"), "--device", "cpu", "--set", "objective.shift=2"]
    assert run(["train", "fashion-mini", "--out", str(tmp_path / "two"), "--steps", "1", *words]) == 0
    for name, folder, options, shift in (
        ("a", tmp_path / "two", [], 2.0),
        ("b", tmp_path / "two", ["--shift", "0.6"], 0.6),
        ("c", flow, [], 3.0),
    ):
        out = str(tmp_path / name)
        line = ["sample", str(folder), "--out", out, "--n", "1", "--steps", "4", "--device", "cpu"]
        assert run([*line, "--grid", "shifted", *options]) == 0
        wanted = shifted(load_denoiser(folder, "cpu").chain, 4, shift)
        assert json.loads((tmp_path / name / "samples.json").read_text())["levels"] == fingerprint(wanted)
    assert run(["sample", str(flow), "--out", str(tmp_path / "d"), "--shift", "2"]) == 2
    assert "--grid shifted" in capsys.readouterr().err


def test_its_bound_and_its_likelihood_are_the_library_s_and_its_prior_is_exact(
    flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    denoiser = Clipped(load_denoiser(flow, "cpu"))
    for options, expected in (
        (["--n", "6", "--batch", "6"], bound(denoiser, chosen(6), batch=6).total),
        (["--n", "2", "--ode", "--tolerance", "1e-3"], flow_likelihood(denoiser, chosen(2), tolerance=1e-3).total),
    ):
        capsys.readouterr()
        assert run(["bound", str(flow), "fashion-mini", "--device", "cpu", "--json", *options]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["total"] == pytest.approx(expected, rel=1e-6)
        assert found.get("prior", 0.0) == 0.0


@pytest.mark.parametrize("name", ["flow", "vp"])
def test_the_paths_are_shown_by_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "chain", name, "--levels", "100", "--out", str(tmp_path / "chain.png")]) == 0
    # 2 log(0.99 / 0.01) and -inf; -log(exp(∫β) - 1) of VP, with ∫β = 0.1 t + 9.95 t².
    first, last = {
        "flow": (2 * math.log(99), -math.inf),
        "vp": tuple(-math.log(math.expm1(x)) for x in (0.001995, 10.05)),
    }[name]
    assert capsys.readouterr().out == f"log SNR {first:.3f} at level 1, {last:.3f} at level 100\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train fashion-mini --out TMP/out --set objective=simple --set chain.name=flow", "set objective.target to v"),
        ("train fashion-mini --out TMP/out --set objective=v --set objective.target=path_velocity", "chain.name to vp"),
        ("show weights --chain flow --out TMP/weights.png", "use V, or a chain"),
        ("show chain interpolant --out TMP/chain.png", "sigmoid, vp, flow"),
    ],
)
def test_what_has_no_meaning_on_a_path_is_refused_in_a_sentence(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.replace("TMP", str(tmp_path)).split()) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert said in message
    assert message.endswith(".")
