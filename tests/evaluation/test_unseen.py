"""Figures on unseen images: against the objective by hand, and the bound of data whose bound is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clearwater import X0, Chain, FixedSmall, NetworkDenoiser, SquaredError, chain
from clearwater.data import pixel_values
from clearwater.evaluation.nearest import nearest
from clearwater.evaluation.unseen import cheap_bound, objective_loss


class Says(nn.Module):
    """A network that says the same whatever it sees, or nearly the label it is told."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        told = 0 if labels is None else labels[:, None, None, None].float() / 10
        return torch.zeros_like(x) + self.value + told


def _images(n: int) -> Tensor:
    return torch.randint(256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("n", [1, 64, 130])
def test_the_loss_is_the_mean_of_the_objective(n: int) -> None:
    model = NetworkDenoiser(Says(0.25), chain("cosine", 50), X0(), FixedSmall())
    images = _images(n)
    found = objective_loss(model, SquaredError(), images, passes=2)
    assert found == pytest.approx(float((pixel_values(images) - 0.25).square().mean()), rel=1e-5)


def test_the_model_is_told_the_labels_of_the_images() -> None:
    model = NetworkDenoiser(Says(0.0), chain("cosine", 50), X0(), FixedSmall())
    images, labels = _images(70), torch.arange(70) % 3
    expected = (pixel_values(images) - labels[:, None, None, None] / 10).square().mean()
    assert objective_loss(model, SquaredError(), images, labels=labels) == pytest.approx(float(expected), rel=1e-5)


class Shrinks(nn.Module):
    """The optimal x_0 of independent normal pixels with the variance of uniform ones, on this chain."""

    def __init__(self, levels: Chain) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.levels = levels

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = self.levels.levels[(time * self.levels.T).round().long()]
        factor = t.alpha / 3 / (t.alpha.square() / 3 + t.sigma.square())
        return self.one * factor.float()[:, None, None, None] * x


def test_the_bound_of_a_gaussian_model_is_its_cross_entropy() -> None:
    """Uniform pixels under a normal density of their variance: log2(127.5 √(2πe/3)) = 8.25 bits.

    8 are the least, and between is what the decoder's open end bins and the clipped mean win, and 300 steps lose.
    """
    images, levels = _images(120), chain("cosine", 300)
    found = cheap_bound(NetworkDenoiser(Shrinks(levels), levels, X0(), FixedSmall()), images, images)
    expected = math.log2(127.5 * math.sqrt(2 * math.pi * math.e / 3))
    assert 8 < found.bits < expected + 0.2
    assert 0 < found.error < 0.2


def test_the_bound_of_images_that_a_model_knows_is_small() -> None:
    images = torch.full((60, 1, 4, 4), 100, dtype=torch.uint8)
    model = NetworkDenoiser(Says(2 * 100 / 255 - 1), chain("cosine", 100), X0(), FixedSmall())
    assert cheap_bound(model, images, images).bits < 0.1


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=30)
def test_the_nearest_image_is_that_of_all_pairs(n: int, of: int, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    samples, data = (torch.randint(256, (count, 1, 3, 3), generator=drawn).to(torch.uint8) for count in (n, of))
    index, distance = nearest(samples, data)
    for i in range(n):
        distances = [math.sqrt(float((samples[i].double() - each.double()).square().mean())) for each in data]
        assert float(distance[i]) == pytest.approx(min(distances), abs=1e-2)
        assert distances[int(index[i])] == pytest.approx(min(distances), abs=1e-2)


def test_over_many_images_the_nearest_is_found_in_any_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearwater.evaluation.nearest._AT_ONCE", 1)
    monkeypatch.setattr("clearwater.evaluation.nearest._FEWEST", 7)
    data = _images(50)
    wanted = torch.tensor([0, 6, 7, 33, 49])
    index, distance = nearest(data[wanted], data)
    assert torch.equal(index, wanted)
    assert float(distance.max()) < 0.1
