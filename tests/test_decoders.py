"""The decoders' gradients; their values are in test_likelihood.py, against mpmath."""

import mpmath
import pytest
import torch

from clearwater.decoders import DiscretizedDecoder
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
