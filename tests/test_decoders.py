"""The decoders against mpmath, values and gradients, far into the tails."""

import mpmath
import pytest
import torch
from stand_ins import exact_log_mass, pixels

from clearwater.decoders import DensityDecoder, DiscretizedDecoder
from clearwater.gaussians import Gaussian


@pytest.mark.parametrize("distance", [0.0, 0.3, 1.9])
@pytest.mark.parametrize("deviation", [1e-4, 0.007, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_the_discretized_decoder_is_exact_far_into_the_tail(distance, deviation, dtype):
    """d/dμ log[Φ(u) - Φ(l)] = (φ(l) - φ(u)) / (s [Φ(u) - Φ(l)]), with 60 digits."""
    x_0 = 2 * 100 / 255 - 1
    at = x_0 + distance + 0.001
    mean = torch.tensor([at], dtype=dtype, requires_grad=True)
    value = DiscretizedDecoder()(
        torch.tensor([x_0], dtype=dtype), Gaussian(mean, torch.tensor([deviation**2], dtype=dtype))
    )
    (gradient,) = torch.autograd.grad(value.sum(), mean)
    with mpmath.workdps(80):
        s, mu, x = mpmath.mpf(deviation), mpmath.mpf(mean.item()), mpmath.mpf(torch.tensor(x_0, dtype=dtype).item())
        upper, lower = (x + mpmath.mpf(1) / 255 - mu) / s, (x - mpmath.mpf(1) / 255 - mu) / s
        # In the lower tail, where the difference of the two masses keeps its digits.
        mass = (
            mpmath.ncdf(upper) - mpmath.ncdf(lower) if upper + lower < 0 else mpmath.ncdf(-lower) - mpmath.ncdf(-upper)
        )
        expected = (mpmath.npdf(lower) - mpmath.npdf(upper)) / mass / s
    relative, absolute = (2e-3, 2e-3 / deviation) if dtype == torch.float32 else (1e-8, 1e-9 / deviation)
    assert float(gradient) == pytest.approx(float(expected), rel=relative, abs=absolute)


@pytest.mark.parametrize("deviation", [1e-3, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("mean", [-1.5, -0.3, 0.0, 0.9])
def test_the_discretized_decoder_is_exact_to_the_far_tails(mean: float, deviation: float) -> None:
    x = torch.arange(256, dtype=torch.float64)[::15] / 127.5 - 1
    ours = DiscretizedDecoder()(x, Gaussian(torch.full_like(x, mean), torch.tensor(deviation**2, dtype=torch.float64)))
    exact = torch.tensor([exact_log_mass(value, mean, deviation) for value in x.tolist()], dtype=torch.float64)
    assert float(exact.min()) < -1e5 or deviation > 1e-3  # the tails that are meant: 1,000 deviations out
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("deviation", [0.003, 0.05, 2.0])
def test_the_discretized_decoder_is_a_distribution_over_256_values(deviation: float) -> None:
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_p = DiscretizedDecoder()(
        x, Gaussian(torch.full_like(x, 0.123), torch.tensor(deviation**2, dtype=torch.float64))
    )
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_the_density_decoder_is_the_discretized_one_where_bins_are_small() -> None:
    x = pixels(4)
    reverse = Gaussian(x + 0.01, torch.tensor(1.0, dtype=torch.float64))
    inner = x.abs() < 0.99
    exact, approximate = DiscretizedDecoder()(x, reverse)[inner], DensityDecoder()(x, reverse)[inner]
    # The error of the midpoint rule over a bin of half-width h: h²/6 · |second derivative of the density / density|.
    torch.testing.assert_close(approximate, exact, rtol=0, atol=(1 / 255) ** 2)
