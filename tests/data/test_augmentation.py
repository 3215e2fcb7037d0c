"""Augmentation that the network is told of: what is done to the pixels, how often, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearwater import load_images
from clearwater.config import Config
from clearwater.data import ImageSet, pixel_values
from clearwater.data.augmentation import AUGMENTED, augmented, warped
from clearwater.randomness import RowStreams
from clearwater.training import Trainer

EYE = torch.eye(2, dtype=torch.float64)[None]
STILL = torch.zeros(1, 2, dtype=torch.float64)


def _images(n: int = 64) -> Tensor:
    return pixel_values(load_images("fashion-mini").images[:n])


def _smooth(height: int, width: int) -> Tensor:
    """A wave that bicubic interpolation knows well."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return (0.5 * torch.sin(5 * x + 1) * torch.cos(4 * y))[None, None]


# --- the pixels


@pytest.mark.parametrize("size", [(28, 28), (9, 14), (15, 6)])
def test_nothing_done_changes_nothing(size: tuple[int, int]) -> None:
    x = torch.rand(3, 2, *size)
    assert float((warped(x, EYE.expand(3, 2, 2), STILL.expand(3, 2)) - x).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[-1, 0], [0, 1]], lambda x: x.flip(-1)),
        ([[1, 0], [0, -1]], lambda x: x.flip(-2)),
        ([[0, -1], [1, 0]], lambda x: x.rot90(-1, (-2, -1))),  # x to y: a quarter turn, as the pixels run down
        ([[0, 1], [-1, 0]], lambda x: x.rot90(1, (-2, -1))),
        ([[-1, 0], [0, -1]], lambda x: x.flip(-1).flip(-2)),
    ],
)
def test_mirrors_and_quarter_turns_move_whole_pixels(
    matrix: list[list[float]], expected: Callable[[Tensor], Tensor]
) -> None:
    x = torch.rand(1, 1, 12, 12)
    out = warped(x, torch.tensor([matrix], dtype=torch.float64), STILL)
    torch.testing.assert_close(out, expected(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (2, 4)])
@pytest.mark.parametrize("size", [(16, 16), (16, 10), (10, 16)])
def test_a_shift_is_in_widths_of_the_longer_side(right: int, down: int, size: tuple[int, int]) -> None:
    x = torch.rand(1, 1, *size)
    shift = torch.tensor([[right, down]], dtype=torch.float64) / 16
    out = warped(x, EYE, shift)
    inside = (slice(max(down, 0), size[0] + min(down, 0)), slice(max(right, 0), size[1] + min(right, 0)))
    before = (slice(max(-down, 0), size[0] + min(-down, 0)), slice(max(-right, 0), size[1] + min(-right, 0)))
    torch.testing.assert_close(out[0, 0][inside], x[0, 0][before], rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_scaling_is_about_the_middle(factor: float) -> None:
    n = 41
    x = _smooth(n, n)
    out = warped(x, factor * EYE, STILL)
    at = torch.linspace(-1, 1, n, dtype=torch.float64) * (n - 1) / n  # of the pixels' middles
    come_from = at / factor
    keep = come_from.abs() < at.max()  # the rest is reflection
    u = (come_from * n / (n - 1) + 1) / 2
    expected = 0.5 * torch.sin(5 * u + 1)[None, :] * torch.cos(4 * u)[:, None]
    rows = keep.nonzero()[:, 0]
    difference = out[0, 0].double()[rows][:, rows] - expected[rows][:, rows]
    assert float(difference.abs().max()) < 5e-3  # half a pixel beside the middle would be 0.03


def test_a_turn_keeps_a_wide_image_s_shapes() -> None:
    """A round hill stays one, whatever the sides."""
    height, width = 24, 40
    y, x = torch.meshgrid(torch.arange(height) - 11.5, torch.arange(width) - 19.5, indexing="ij")
    hill = (-(x**2 + y**2) / 25).exp()[None, None]
    cos, sin = math.cos(0.7), math.sin(0.7)
    inside = (x**2 + y**2) < 11**2  # beyond there are reflections
    for matrix, at_most, at_least in (
        ([[cos, -sin], [sin, cos]], 0.02, 0.0),
        ([[cos, -sin], [0.6 * sin, 0.6 * cos]], 1.0, 0.1),  # as if the sides were alike
    ):
        out = warped(hill, torch.tensor([matrix], dtype=torch.float64), STILL)
        assert at_least <= float((out - hill)[0, 0][inside].abs().max()) < at_most


# --- what is done, and told


@given(st.integers(0, 20), st.integers(1, 20), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_row_is_changed_in_the_same_way_in_any_part_of_the_batch(first: int, n: int, probability: float) -> None:
    x = _images(40)
    whole, told = augmented(x, probability, RowStreams(5, range(40)))
    part, of_part = augmented(x[first : first + n], probability, RowStreams(5, range(first, first + n)))
    assert torch.equal(of_part, told[first : first + n])
    assert float((part - whole[first : first + n]).abs().max()) <= 2 / 255 + 1e-6  # a rounding may fall otherwise


def test_images_stay_on_the_grid_of_8_bits_and_what_is_not_changed_stays_to_the_bit() -> None:
    x = _images()
    out, told = augmented(x, 0.3, RowStreams(1, range(len(x))))
    pixels = (out.double() + 1) * 127.5
    assert float((pixels - pixels.round()).abs().max()) < 1e-4
    assert float(out.abs().max()) <= 1
    for image, before, said in zip(out, x, told, strict=True):
        if not said[2:].any():
            mirrored = before.flip(-1) if said[0] else before
            assert torch.equal(image, mirrored.flip(-2) if said[1] else mirrored)
        else:
            assert not torch.equal(image, before)


def test_without_a_probability_images_are_mirrored_alone() -> None:
    x = _images()
    out, told = augmented(x, 0.0, RowStreams(2, range(len(x))))
    assert torch.equal(out, torch.where(told[:, 0].bool()[:, None, None, None], x.flip(-1), x))
    assert not told[:, 1:].any()
    assert 16 < int(told[:, 0].sum()) < 48


def test_each_change_comes_as_often_as_is_said_and_is_as_large() -> None:
    n, p = 6000, 0.3
    _, told = augmented(torch.zeros(n, 1, 4, 4), p, RowStreams(3, range(n)))
    assert told.shape == (n, AUGMENTED)
    often = told.ne(0).double().mean(0)
    expected = torch.tensor([0.5, p / 2, p, p, p, p, p, p, p], dtype=torch.float64)
    assert float((often - expected).abs().max()) < 4 * math.sqrt(0.25 / n)
    for column in (2, 7, 8):  # standard normal where they are made
        made = told[:, column][told[:, column] != 0].double()
        assert abs(float(made.mean())) < 4 / math.sqrt(len(made))
        assert float(made.var()) == pytest.approx(1, abs=6 / math.sqrt(len(made)))
    turned = told[told[:, 3] != 0]
    torch.testing.assert_close((turned[:, 3] + 1) ** 2 + turned[:, 4] ** 2, torch.ones(len(turned)), rtol=0, atol=1e-5)
    both = torch.corrcoef((told.ne(0).double() - often).T[[0, 1, 2, 3, 5, 7]])  # one does not come with another
    assert float((both - torch.eye(6, dtype=torch.float64)).abs().max()) < 5 / math.sqrt(n)


# --- in training


def test_the_network_is_told_and_untold_it_draws_as_if_nothing_was_done(tiny: Callable[..., Config]) -> None:
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), np.uint8)))
    trainer = Trainer(tiny("data.augment=0.5", "training.steps=20"), images, torch.device("cpu"))
    list(trainer)
    model = trainer.averaged()
    weight = model.network.get_parameter("augmented.weight")
    assert weight.shape[1] == AUGMENTED
    x, t = torch.rand(3, 1, 8, 8), model.chain.levels[5]
    plain = model.output(x, t)
    for told, same in ((torch.zeros(3, AUGMENTED), True), (torch.ones(3, AUGMENTED), False)):
        out = model.network(x, torch.full((3,), float(t.time)), None, told)
        assert torch.equal(out, plain) == same


def test_training_with_it_in_parts_is_that_of_the_whole(tiny: Callable[..., Config]) -> None:
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), np.uint8)))
    losses = []
    for more in ((), ("training.microbatch=3",)):
        sets = ("data.augment=0.5", "training.batch=10", "training.steps=1", "model.dropout=0", *more)
        (progress, _) = list(Trainer(tiny(*sets), images, torch.device("cpu")))
        losses.append(progress.loss)
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)  # a rounding to 8 bits may fall otherwise
