"""Averages whose length is chosen after training: their profiles, and what is made of what was kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import InputError
from clearwater.training import EMA, Progress, RunFolder, Trainer
from clearwater.training import trainer as trainer_module
from clearwater.training.posthoc import (
    LENGTHS,
    Snapshot,
    Snapshots,
    combination,
    gamma_of,
    length_of,
    profile_product,
)


def _profile(snapshot: Snapshot) -> Callable[[float], float]:
    gamma, t = gamma_of(snapshot.length), snapshot.step
    return lambda x: (gamma + 1) * x**gamma / t ** (gamma + 1) if x <= t else 0.0


# --- profiles


@given(st.floats(0.001, 0.288))
def test_the_length_is_the_standard_deviation_of_the_profile(length: float) -> None:
    gamma = gamma_of(length)
    mean, square = ((gamma + 1) / (gamma + 1 + power) for power in (1, 2))  # moments of (γ + 1) τ^γ on [0, 1]
    assert math.sqrt(square - mean**2) == pytest.approx(length, rel=1e-5)
    assert length_of(gamma) == pytest.approx(length, rel=1e-9)


def test_the_paper_s_exponents() -> None:
    # Karras et al. 2024, section 3.1: 5% and 10% of the run are γ = 16.97 and 6.94.
    assert [round(gamma_of(length), 2) for length in LENGTHS] == [16.97, 6.94]


@pytest.mark.parametrize("length", [0.0, -0.1, 12**-0.5, 0.5, math.nan])
def test_a_length_that_no_average_has_is_refused_in_a_sentence(length: float) -> None:
    with pytest.raises(InputError, match=r"above 0 and below 0\.289 .*not "):
        gamma_of(length)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Snapshot(7, 0.05), Snapshot(10, 0.1)),
        (Snapshot(10, 0.1), Snapshot(10, 0.05)),
        (Snapshot(3, 0.2), Snapshot(9, 0.03)),
    ],
)
def test_the_product_of_profiles_is_the_integral(a: Snapshot, b: Snapshot) -> None:
    p, q = _profile(a), _profile(b)
    integral = integrate.quad(lambda x: p(x) * q(x), 0, min(a.step, b.step), epsabs=1e-14)[0]
    assert profile_product(a, b) == pytest.approx(integral, rel=1e-9)
    assert profile_product(a, b) == pytest.approx(profile_product(b, a), rel=1e-14)


# --- combinations


@pytest.mark.parametrize("length", [0.02, 0.08, 0.25])
def test_the_combination_is_the_nearest_profile_and_what_it_misses_is_said(length: float) -> None:
    kept = [Snapshot(step, known) for step in (40, 60, 80, 100) for known in LENGTHS]
    factors, missed = combination(kept, 100, length)
    wanted = _profile(Snapshot(100, length))

    def apart(weights: torch.Tensor) -> float:
        profiles = [_profile(snapshot) for snapshot in kept]

        def square(x: float) -> float:
            return (wanted(x) - sum(float(f) * p(x) for f, p in zip(weights, profiles, strict=True))) ** 2

        return math.sqrt(integrate.quad(square, 0, 100, points=[40, 60, 80], limit=400)[0])

    norm = math.sqrt(profile_product(Snapshot(100, length), Snapshot(100, length)))
    assert apart(factors) / norm == pytest.approx(missed, rel=1e-3)
    for i in range(len(kept)):  # no factor can be bettered
        for change in (0.01, -0.01):
            other = factors.clone()
            other[i] += change
            assert apart(other) > apart(factors)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_was_kept_is_itself(length: float) -> None:
    kept = [Snapshot(step, known) for step in (50, 100) for known in LENGTHS]
    factors, missed = combination(kept, 100, length)
    assert missed < 1e-6
    expected = [float(snapshot == Snapshot(100, length)) for snapshot in kept]
    np.testing.assert_allclose(factors.numpy(), expected, atol=1e-6)


def test_without_anything_kept_the_sentence_says_what_to_set() -> None:
    with pytest.raises(InputError, match=r"training\.ema_snapshots above 0"):
        combination([Snapshot(11, 0.05)], 10, 0.05)


@pytest.mark.parametrize(("length", "allowed"), [(0.03, 4e-3), (0.07, 1e-3), (0.15, 2e-3), (0.2, 6e-3)])
def test_of_sixteen_copies_an_average_of_another_length_is_made(tmp_path: Path, length: float, allowed: float) -> None:
    """Weights that wander and settle, as those of a network; beside an average that was kept all the way."""
    n, drawn = 1600, torch.Generator().manual_seed(0)
    weights = {"w": torch.nn.Parameter(torch.zeros(500))}
    averages = {each: EMA(weights, 1.0, gamma_of(each)) for each in (*LENGTHS, length)}
    snapshots = Snapshots(tmp_path / "averages")
    for step in range(1, n + 1):
        with torch.no_grad():
            weights["w"].mul_(0.999).add_(0.03 * (1 - step / n) * torch.randn(500, generator=drawn))
        for average in averages.values():
            average.update(step)
        if step % 100 == 0:
            snapshots.keep(step, {known: averages[known].parameters for known in LENGTHS})
    made, missed = snapshots.average(n, length)
    direct = averages[length].parameters["w"]
    assert float((made["w"] - direct).norm() / direct.norm()) < allowed
    assert missed < 0.06
    plain = averages[0.05].parameters["w"]
    assert float((plain - direct).norm() / direct.norm()) > 5 * allowed  # it is another one


def test_a_copy_is_what_was_kept_in_half_precision_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    kept = {length: {"w": torch.linspace(0, length, 7)} for length in LENGTHS}
    snapshots = Snapshots(tmp_path / "averages")
    assert snapshots.steps() == []
    for step in (20, 10):
        snapshots.keep(step, kept)
    assert snapshots.steps() == [10, 20]
    for length in LENGTHS:
        copy = snapshots.copy(20, length)
        assert copy is not None
        assert torch.equal(copy["w"], kept[length]["w"].half().float())
    path = tmp_path / "averages" / "000000020.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert snapshots.copy(20, 0.1) is None
    assert "000000020" in snapshots.warnings[-1]


# --- in training


def _trainer(config: Config, folder: Path) -> Trainer:
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)))
    return Trainer(config, images, torch.device("cpu"), RunFolder.create(folder, config))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "averages").iterdir()}


@pytest.mark.parametrize("stop", [3, 7, 10])
def test_what_is_kept_in_a_run_that_was_interrupted_are_the_bits_of_an_unbroken_one(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", 0.0)
    config = tiny("training.ema_snapshots=4", "training.steps=12")
    list(_trainer(config, tmp_path / "unbroken"))
    assert set(_files(tmp_path / "unbroken")) == {f"{step:09d}.safetensors" for step in (3, 6, 9, 12)}
    for last in (stop, 0):
        trainer = _trainer(config, tmp_path / "broken")
        for event in trainer:
            if isinstance(event, Progress) and event.step == last:
                trainer.stop()
    assert _files(tmp_path / "broken") == _files(tmp_path / "unbroken")


def test_what_was_kept_after_the_checkpoint_that_is_gone_on_from_is_removed(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("training.ema_snapshots=4", "training.steps=8")
    list(_trainer(config, tmp_path))
    (tmp_path / "averages" / "000000020.safetensors").write_bytes(b"of a later step, which was lost")
    _trainer(config, tmp_path)
    assert set(_files(tmp_path)) == {f"{step:09d}.safetensors" for step in (2, 4, 6, 8)}


def test_a_run_that_keeps_none_has_no_folder_for_them(tiny: Callable[..., Config], tmp_path: Path) -> None:
    list(_trainer(tiny(), tmp_path))
    assert not (tmp_path / "averages").exists()
    kept = RunFolder.open(tmp_path).latest()
    assert kept is not None
    assert kept.lengths == {}
