"""The pictures of the processes show the levels they claim, in their places; the plots the figures they claim."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from clearwater.chains import chain, linear
from clearwater.pictures import (
    forward_frames,
    forward_strip,
    plot_chain,
    plot_loss,
    reverse_frames,
    reverse_strip,
    to_uint8,
)
from clearwater.sampling import StepState
from clearwater.targets import Prediction

GAP = 2
SIDE = 6


def _data(n: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    shape = (n, channels, SIDE, SIDE)
    return torch.rand(shape, generator=drawn) * 2 - 1, torch.randn(shape, generator=drawn)


def _cells(picture: Image.Image, columns: int) -> npt.NDArray[np.uint8]:
    """The images in a grid of so many columns, whatever it was enlarged by: shape (rows, columns, SIDE, SIDE)."""
    width = columns * (SIDE + GAP) + GAP
    factor, rest = divmod(picture.width, width)
    assert rest == 0
    pixels = np.asarray(picture)[::factor, ::factor]
    rows, rest = divmod(pixels.shape[0] - GAP, SIDE + GAP)
    assert rest == 0
    return np.stack(
        [
            np.stack([pixels[top : top + SIDE, left : left + SIDE] for left in range(GAP, width - GAP, SIDE + GAP)])
            for top in range(GAP, rows * (SIDE + GAP), SIDE + GAP)
        ]
    )


@pytest.mark.parametrize(
    ("T", "count", "levels"),
    [
        (1000, 11, [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        (100, 5, [0, 25, 50, 75, 100]),
        (30, 4, [0, 10, 20, 30]),
        (30, 100, list(range(31))),
        (30, 31, list(range(31))),
    ],
)
def test_the_columns_of_the_forward_strip_are_the_data_at_evenly_spread_levels(
    T: int, count: int, levels: list[int]
) -> None:
    x_0, eps = _data(3)
    levels_of = linear(T)
    cells = _cells(forward_strip(x_0, eps, levels_of, count), len(levels))
    for column, k in enumerate(levels):
        expected = to_uint8(levels_of.levels[k].noise(x_0, eps))[:, 0]
        np.testing.assert_array_equal(cells[:, column], expected)
    np.testing.assert_array_equal(cells[:, 0], to_uint8(x_0)[:, 0])


def test_the_forward_frames_sink_level_by_level_in_one_noise() -> None:
    x_0, eps = _data(4)
    levels_of = linear(100)
    frames = forward_frames(x_0, eps, levels_of, 5)
    assert len(frames) == 5
    for frame, k in zip(frames, (0, 25, 50, 75, 100), strict=True):
        expected = to_uint8(levels_of.levels[k].noise(x_0, eps))[:, 0]
        np.testing.assert_array_equal(_cells(frame, 2).reshape(4, SIDE, SIDE), expected)


def _states(T: int, n: int) -> Iterator[StepState]:
    """States whose images are constant and say their level: x is at k, the prediction a little above it."""
    for k in range(T, -1, -1):
        value = torch.full((n, 1, SIDE, SIDE), 2 * (10 * k) / 255 - 1)
        value += 2 * torch.arange(n)[:, None, None, None] / 255  # and which image they are
        prediction = None if k == T else Prediction(x_0=value + 2 * 5 / 255, eps=torch.zeros_like(value))
        yield StepState(k, value, prediction)


def test_the_reverse_strip_shows_each_image_above_its_prediction_from_noise_to_sample() -> None:
    cells = _cells(reverse_strip(_states(20, 5), 20, count=5, images=3), 5)
    assert cells.shape[:2] == (6, 5)
    for image in range(3):
        for column, k in enumerate((20, 15, 10, 5, 0)):
            prediction = 128 if k == 20 else 10 * k + image + 5  # nothing is predicted yet: grey
            assert np.unique(cells[2 * image, column]).tolist() == [10 * k + image]
            assert np.unique(cells[2 * image + 1, column]).tolist() == [prediction]


def test_the_reverse_frames_show_the_images_on_the_left_and_the_predictions_on_the_right() -> None:
    frames = reverse_frames(_states(20, 9), 20, count=3, images=4)
    assert len(frames) == 3
    half = 2 * (SIDE + GAP) + GAP
    for frame, k in zip(frames, (20, 10, 0), strict=True):
        factor = frame.width // (2 * half + 6)
        assert frame.size == ((2 * half + 6) * factor, half * factor)
        left = _cells(frame.crop((0, 0, half * factor, frame.height)), 2)
        right = _cells(frame.crop(((half + 6) * factor, 0, frame.width, frame.height)), 2)
        predicted = [128] * 4 if k == 20 else [10 * k + image + 5 for image in range(4)]
        assert [np.unique(cell).tolist() for cell in left.reshape(4, -1)] == [[10 * k + image] for image in range(4)]
        assert [np.unique(cell).tolist() for cell in right.reshape(4, -1)] == [[value] for value in predicted]


def test_the_reverse_pictures_ask_for_every_state_once_and_keep_none_but_the_shown() -> None:
    asked = []

    def watched() -> Iterator[StepState]:
        for state in _states(20, 2):
            asked.append(state.k)
            yield state

    reverse_strip(watched(), 20, count=3)
    assert asked == list(range(20, -1, -1))


def test_pictures_of_colour_images_are_in_colour() -> None:
    x_0, eps = _data(2, channels=3)
    picture = forward_strip(x_0, eps, linear(30), 3)
    assert picture.mode == "RGB"
    first = np.asarray(picture.resize((3 * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + GAP), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(first[GAP : GAP + SIDE, GAP : GAP + SIDE], to_uint8(x_0[0]).permute(1, 2, 0))


def _curves(figure: Figure) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    return [(line.get_xdata(), line.get_ydata()) for axes in figure.axes for line in axes.lines]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_chain_plot_shows_beta_alpha_bar_and_log_snr(name: str) -> None:
    levels = chain(name, 50)
    beta, alpha_bar, log_snr = _curves(plot_chain(levels, name))
    bar = np.concatenate([[1], np.cumprod(1 - levels.beta.numpy())])
    np.testing.assert_array_equal(beta[0], np.arange(1, 51))
    np.testing.assert_allclose(beta[1], 1 - bar[1:] / bar[:-1], rtol=1e-9)
    np.testing.assert_array_equal(alpha_bar[0], np.arange(51))
    np.testing.assert_allclose(alpha_bar[1], bar, rtol=1e-9)
    np.testing.assert_array_equal(log_snr[0], np.arange(1, 51))
    np.testing.assert_allclose(log_snr[1], np.log(bar[1:] / (1 - bar[1:])), rtol=1e-9)


@pytest.mark.parametrize("reports", [1, 7, 100])
def test_the_loss_plot_shows_every_report_and_their_running_mean(reports: int) -> None:
    losses = np.random.default_rng(0).uniform(0.1, 1, reports)
    raw, mean = _curves(plot_loss([{"step": 10.0 * i, "loss": loss} for i, loss in enumerate(losses)]))
    np.testing.assert_array_equal(raw[0], 10 * np.arange(reports))
    np.testing.assert_array_equal(raw[1], losses)
    window = max(1, reports // 20)
    middle = (window - 1) // 2  # of the reports that are averaged
    np.testing.assert_array_equal(mean[0], raw[0][middle : middle + len(mean[0])])
    np.testing.assert_allclose(mean[1], np.convolve(losses, np.ones(window) / window, "valid"))
