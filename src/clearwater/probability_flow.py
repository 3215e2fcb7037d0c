r"""The probability-flow ODE, which carries noise to data without randomness (Song et al. 2021, eq. 13).

In x / alpha and sigma / alpha it reads d(x/alpha) / d(sigma/alpha) = eps on every schedule. With z = x /
√(alpha² + sigma²), s = sigma / √(alpha² + sigma²) and u = log(sigma / alpha) it is as well scaled at both ends:

    dz/du = s · eps(x, t) - s² · z.

Pure noise lies infinitely far along u. It is π/2 by the angle φ with tan φ = sigma / alpha, c = cos φ and s = sin φ:

    dz/dφ = c · eps(x, t) - s · x_0(x, t).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.levels import Level
from clearwater.schedules import level_at_log_snr

__all__ = ["flow_by_angle", "norm_of", "probability_flow"]


def norm_of(t: Level) -> Tensor:
    """√(alpha² + sigma²), float64, of `t`'s shape: 1 on variance-preserving levels."""
    return (t.alpha.square() + t.sigma.square()).sqrt()


def probability_flow(denoiser: Denoiser, z: Tensor, u: float) -> Tensor:
    """dz/du at `z`, shape (B, ...), and u = log(sigma / alpha), within what the levels of the denoiser's chain have."""
    levels = denoiser.chain.levels[1:]
    log_snr = levels[levels.alpha > 0].log_snr
    wanted = torch.tensor(-2 * u, dtype=torch.float64)
    # The ends are exact where the solver's own arithmetic is not.
    t = denoiser.chain.at_log_snr(wanted.clamp(log_snr.min(), log_snr.max()))
    norm = float(norm_of(t))
    s = float(t.sigma) / norm
    return s * denoiser(norm * z, t).eps - s**2 * z


def flow_by_angle(denoiser: Denoiser, z: Tensor, angle: float) -> Tensor:
    """dz/dφ at `z`, shape (B, ...), and φ = atan(sigma / alpha) up to π/2, on a schedule that ends in pure noise."""
    schedule = denoiser.chain.schedule
    assert schedule is not None
    silent = angle > math.pi / 2 - 1e-12  # where the tangent has no digits
    wanted = torch.tensor(-math.inf if silent else -2 * math.log(math.tan(angle)), dtype=torch.float64)
    t = level_at_log_snr(schedule, wanted)
    norm = float(norm_of(t))
    prediction = denoiser(norm * z, t)
    return float(t.alpha) / norm * prediction.eps - float(t.sigma) / norm * prediction.x_0
