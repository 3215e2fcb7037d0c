"""What several tests use: stand-ins for noise and for a denoiser that is watched, and a reference for the decoder."""

import mpmath
import torch

from clearwater.denoisers import Denoiser


class Probes:
    """In place of noise: row 0 is never any, and each number that is drawn is 1 in a row of its own."""

    def __init__(self, draws):
        self.rows, self.drawn = 1 + 2 * draws, 0

    def __call__(self):
        noise = torch.zeros(self.rows, 2, dtype=torch.float64)
        for pixel in (0, 1):
            noise[1 + 2 * self.drawn + pixel, pixel] = 1
        self.drawn += 1
        return noise


class Counted(Denoiser):
    """Another denoiser, how often it was asked, and of how many images."""

    def __init__(self, denoiser):
        self.denoiser, self.chain, self.variance = denoiser, denoiser.chain, denoiser.variance
        self.calls = self.images = 0

    def __call__(self, x_t, t):
        self.calls += 1
        self.images += len(x_t)
        return self.denoiser(x_t, t)


def exact_log_mass(x: float, mean: float, deviation: float) -> float:
    """log of the mass of N(mean, deviation²) on the bin of pixel value `x`, with 60 digits."""
    with mpmath.workdps(60):
        low = mpmath.mpf("-inf") if x <= -1 else (mpmath.mpf(x) - mpmath.mpf(1) / 255 - mean) / deviation
        high = mpmath.mpf("inf") if x >= 1 else (mpmath.mpf(x) + mpmath.mpf(1) / 255 - mean) / deviation
        if low > 0:
            low, high = -high, -low
        return float(mpmath.log(mpmath.ncdf(high) - mpmath.ncdf(low)))


def pixels(n, shape=(1, 4, 4), seed=0):
    """Random 8-bit data on the grid."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=rng).double() / 127.5 - 1
