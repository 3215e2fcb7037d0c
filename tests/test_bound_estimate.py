"""The bound from a budget of evaluations: unbiased, with an error that is what it says."""

import numpy as np
import pytest
import torch
from stand_ins import Counted, pixels

from clearwater import ExactDenoiser, FixedSmall, InputError, bound, chain, estimate_bound, gaussian_data

IMAGES = gaussian_data(torch.full((1, 4, 4), 0.2, dtype=torch.float64), 0.3)
LINEAR = chain("linear")


def test_the_estimate_is_unbiased_and_knows_its_error() -> None:
    levels = chain("linear").strided(200)
    denoiser = ExactDenoiser(IMAGES, levels, FixedSmall())
    x_0 = pixels(40)
    exact = np.mean([bound(denoiser, x_0, seed=seed).total for seed in range(100, 116)])
    estimates = [estimate_bound(denoiser, x_0, 40 * 20, seed=seed) for seed in range(60)]
    z = np.array([(estimate.total - exact) / estimate.stderr for estimate in estimates])
    # The mean of z varies by √(1/60) of itself and by 0.18 from the exact one's own noise: 0.22 together.
    assert abs(z.mean()) < 0.7
    assert 0.6 < z.std() < 1.4
    assert np.abs(z).max() < 4
    assert all(estimate.evaluations <= 40 * 20 for estimate in estimates)


def test_a_budget_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="at least 50"):
        estimate_bound(ExactDenoiser(IMAGES, LINEAR, FixedSmall()), pixels(10), 12)


@pytest.mark.parametrize("budget", [1000, 7777, 20_000])
def test_the_evaluations_of_an_estimate_are_those_that_were_made(budget: int) -> None:
    denoiser = Counted(ExactDenoiser(IMAGES, LINEAR, FixedSmall()))
    x_0 = torch.zeros(30, 1, 4, 4, dtype=torch.float64) + 1 / 255
    found = estimate_bound(denoiser, x_0, budget)
    assert found.evaluations == denoiser.images <= budget


def test_a_budget_for_every_level_gives_the_exact_bound() -> None:
    denoiser = ExactDenoiser(IMAGES, LINEAR, FixedSmall())
    x_0 = torch.zeros(3, 1, 4, 4, dtype=torch.float64) + 1 / 255
    levels = LINEAR.strided(10)
    estimated, exact = estimate_bound(denoiser, x_0, 30, chain=levels), bound(denoiser, x_0, chain=levels)
    assert torch.equal(estimated.per_image, exact.per_image)
    assert estimated.evaluations == 30
