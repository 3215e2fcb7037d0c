"""`clearwater sample`: samplers, grids and the compiled network are those that are named."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_runs import SHAPE, N, made_by, model_of, samples_of

from clearwater import (
    DDIM,
    AdaptiveODE,
    Ancestral,
    Chain,
    Clipped,
    DPMSolver,
    Euler,
    Heun,
    SDEDPMSolver,
    SinglestepDPMSolver,
    Stepper,
    UniPC,
    fit_optimal_variance,
    load_denoiser,
    load_images,
)
from clearwater.cli import run
from clearwater.data import pixel_values
from clearwater.randomness import ImageNoise
from clearwater.sampling import (
    GRIDS,
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
from clearwater.training import RunFolder

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
    model, seen = model_of(home), set()
    for i, (options, (stepper, chain)) in enumerate(_every(home, model.chain).items()):
        made = made_by(home, tmp_path / str(i), *options.split())
        np.testing.assert_array_equal(made, samples_of(model, stepper, chain), err_msg=options)
        assert json.loads((tmp_path / str(i) / "samples.json").read_text())["steps"] == chain.T
        seen.add(made.tobytes())
    assert len(seen) == i + 1  # no two of them are the same


@pytest.mark.parametrize("grid", ["bound", "fitted"])
def test_what_is_measured_for_a_run_that_is_somebody_else_s_is_used_and_not_kept(
    grid: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "run", tmp_path / "run", ignore=shutil.ignore_patterns("*optimal*", "*path-costs*"))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(RunFolder, "keep", refuse)
    options = ["--grid", grid, "--steps", "6", "--n", "2", "--device", "cpu"]
    assert run(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "out"), *options]) == 0
    assert "could not be kept with the run" in " ".join(capsys.readouterr().err.split())
    monkeypatch.undo()
    assert run(["sample", str(home / "run"), "--out", str(tmp_path / "own"), *options]) == 0
    same = [(tmp_path / where / "000001.png").read_bytes() for where in ("out", "own")]
    assert same[0] == same[1]


def test_a_chain_of_fewer_levels_is_gone_through_whole(trained: Path, tmp_path: Path) -> None:
    assert run(["sample", str(trained), "--out", str(tmp_path), "--n", "1", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "samples.json").read_text())["steps"] == 10


def test_the_list_explains_every_sampler_and_every_grid_and_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["sample", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    samplers, grids = lines[1 : 1 + len(SAMPLERS)], lines[lines.index("--grid") + 1 :]
    assert [line.split()[0] for line in samplers] == list(SAMPLERS)
    for line, entry in zip(samplers, SAMPLERS.values(), strict=True):
        assert line.endswith(f" {entry.use}")
        assert line.split()[1] == str(entry.order or "-")
        assert entry.evaluations in line
    assert len({line.index(entry.use) for line, entry in zip(samplers, SAMPLERS.values(), strict=True)}) == 1
    assert {line.split()[0] for line in grids} == {*GRIDS, "fitted", "bound"}
    assert all(len(line) <= 120 for line in lines)


def test_the_list_does_without_what_only_pictures_and_runs_need() -> None:
    script = """
import sys
from clearwater.cli import run
assert run(["sample", "--list"]) == 0
print(sorted({"matplotlib", "PIL", "safetensors", "torchdiffeq", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


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

    plain = made_by(home, tmp_path / "plain", "--steps", "4")
    monkeypatch.setattr(torch, "compile", Stand)
    np.testing.assert_array_equal(made_by(home, tmp_path / "compiled", "--steps", "4", "--compile"), plain)
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
