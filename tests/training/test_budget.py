"""The end of training and the learning rate on the way there, against their closed forms."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearwater.config import TrainingConfig
from clearwater.errors import InputError
from clearwater.training.budget import Minutes, Steps, budget, learning_rate_factor


@given(steps=st.integers(1, 10**6), step=st.integers(0, 2 * 10**6), seconds=st.floats(0, 1e9))
def test_steps_end_at_their_number_whatever_the_clock_says(steps: int, step: int, seconds: float) -> None:
    fraction = Steps(steps).fraction(step, seconds)
    assert fraction == min(step / steps, 1)
    assert (fraction == 1) == (step >= steps)


@given(minutes=st.floats(0.01, 1e4), step=st.integers(0, 10**6), part=st.floats(0, 3))
def test_minutes_end_when_they_have_passed_however_many_steps_that_was(minutes: float, step: int, part: float) -> None:
    assert Minutes(minutes).fraction(step, part * minutes * 60) == pytest.approx(min(part, 1))


def test_the_budget_is_the_one_that_the_configuration_names() -> None:
    assert budget(TrainingConfig(steps=7)) == Steps(7)
    assert budget(TrainingConfig(minutes=1.5)) == Minutes(1.5)


def test_training_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"--steps or --minutes"):
        budget(TrainingConfig())


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (1000, 1.0)])
def test_the_rate_rises_linearly_over_the_warm_up(step: int, factor: float) -> None:
    assert learning_rate_factor(TrainingConfig(warmup=10, anneal="constant"), step, 0.7) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("anneal", "factors"),
    [
        ("constant", {0: 1, 0.5: 1, 0.9: 1, 1: 1}),
        ("cosine", {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
        ("trapezoid", {0: 1, 0.5: 1, 0.6: 1, 0.7: 0.75, 0.8: 0.5, 0.9: 0.25, 1: 0}),  # straight over the last 40%
    ],
)
def test_the_rate_is_annealed_to_the_end_of_the_budget(
    anneal: Literal["constant", "cosine", "trapezoid"], factors: dict[float, float]
) -> None:
    training = TrainingConfig(warmup=0, anneal=anneal)
    for fraction, factor in factors.items():
        assert learning_rate_factor(training, 5, fraction) == pytest.approx(factor, abs=1e-15)


@given(
    anneal=st.sampled_from(["constant", "cosine", "trapezoid"]),
    warmup=st.integers(0, 1000),
    step=st.integers(0, 2000),
    fraction=st.floats(0, 1),
)
def test_warm_up_and_annealing_multiply(
    anneal: Literal["constant", "cosine", "trapezoid"], warmup: int, step: int, fraction: float
) -> None:
    warm = 1 if warmup == 0 else min(1, (step + 1) / warmup)
    annealed = {
        "constant": 1,
        "cosine": math.cos(math.pi * fraction / 2) ** 2,
        "trapezoid": 1 if fraction < 0.6 else (1 - fraction) / 0.4,
    }[anneal]
    factor = learning_rate_factor(TrainingConfig(warmup=warmup, anneal=anneal), step, fraction)
    assert factor == pytest.approx(warm * annealed, abs=1e-15)
