r"""A chain whose noise levels are learned: gamma(t) = -log SNR as a monotone network (Kingma et al. 2021).

It is trained with the mean, through the bound: x_t = alpha(gamma) x_0 + sigma(gamma) eps carries the gradient
to gamma, and so do the coefficients of every term. What training and the rest of the library see is a plain
`Chain`, made anew from the parameters when it is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearwater.chains import Chain
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.schedules import from_log_snr

__all__ = ["LearnedChain"]

_STEPS = 32  # sigmoids that the curve is made of


class LearnedChain(nn.Module):
    """gamma = -log SNR rising from level 1 to level T, variance preserving; level 0 is data.

    gamma is a straight line and a sum of sigmoids, all with positive slopes, scaled to run from one end point to
    the other; both ends are learned as well. At first it is nearly the straight line between those of Kingma et al.
    2021 (appendix F). The time that the network is fed is a fixed function of log SNR, since level k is
    another noise at each step of training; it carries no gradient, which at the best network it has none of.

    Args:
        T: the number of steps, at least 2.
        log_snr: at level 1 and at level T, where training begins.
    """

    def __init__(self, T: int, log_snr: tuple[float, float] = (13.3, -5.0)) -> None:
        super().__init__()
        if T < 2 or not log_snr[0] > log_snr[1]:
            raise InputError(
                f"A learned chain has at least 2 steps, and its log-SNR falls: not {T} steps from {log_snr[0]} to "
                f"{log_snr[1]}."
            )
        self.T = T
        self.start = nn.Parameter(torch.tensor(-log_snr[0]))
        self.span = nn.Parameter(_inverse_softplus(torch.tensor(log_snr[0] - log_snr[1])))
        self.line = nn.Parameter(_inverse_softplus(torch.tensor(1.0)))
        self.heights = nn.Parameter(_inverse_softplus(torch.full((_STEPS,), 0.01)))
        self.slopes = nn.Parameter(_inverse_softplus(torch.full((_STEPS,), float(_STEPS))))
        self.centres = nn.Parameter((torch.arange(_STEPS) + 0.5) / _STEPS)

    def gamma(self, t: Tensor) -> Tensor:
        """-log SNR at times `t` from 0, level 1, to 1, level T; float64, shape of `t`."""
        curve = self._curve(torch.cat([t.new_tensor([0.0, 1.0], dtype=torch.float64), t.double().flatten()]))
        fraction = (curve[2:] - curve[0]) / (curve[1] - curve[0])
        gamma: Tensor = self.start.double() + F.softplus(self.span.double()) * fraction
        return gamma.reshape(t.shape)

    def _curve(self, t: Tensor) -> Tensor:
        """Rising, but with ends of its own; shape (N,)."""
        steps = torch.sigmoid(F.softplus(self.slopes.double()) * (t[:, None] - self.centres.double()))
        curve: Tensor = F.softplus(self.line.double()) * t + steps @ F.softplus(self.heights.double())
        return curve

    def chain(self) -> Chain:
        """The chain as it is now; its levels carry gradients to the parameters."""
        gamma = self.gamma(torch.linspace(0, 1, self.T, dtype=torch.float64))
        above = from_log_snr(-gamma, torch.sigmoid(gamma.detach() / 8))
        one, zero = gamma.new_ones(1), gamma.new_zeros(1)
        return Chain(
            Level(torch.cat([one, above.alpha]), torch.cat([zero, above.sigma]), torch.cat([zero, above.time]))
        )


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
