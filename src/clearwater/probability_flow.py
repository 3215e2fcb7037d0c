r"""The probability-flow ODE, which carries noise to data without randomness (Song et al. 2021, eq. 13).

In x / alpha and sigma / alpha it reads d(x/alpha) / d(sigma/alpha) = eps on every schedule. With z = x /
√(alpha² + sigma²), s = sigma / √(alpha² + sigma²) and u = log(sigma / alpha) it is as well scaled at both ends:

    dz/du = s · eps(x, t) - s² · z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.levels import Level

__all__ = ["norm_of", "probability_flow"]


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
