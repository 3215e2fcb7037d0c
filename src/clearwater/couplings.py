"""Which noise goes with which image of a batch: flow matching may choose, as long as each keeps its own law.

Paths between images and noises that lie near each other cross less, so they are straighter, and fewer steps do (Tong et
al. 2024; Pooladian et al. 2023). What is learned then is a flow alone: x_t is no longer the image under independent
noise, so its velocity is not that of a score, and samplers that add noise on the way leave its marginals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.randomness import Randomness, uniform

__all__ = ["Coupling", "Independent", "OptimalTransport", "Sinkhorn"]

_NO_ZERO = 500.0  # exp(-500) is a number


class Coupling(ABC):
    """Chooses noises for images."""

    @abstractmethod
    def __call__(self, x_0: Tensor, eps: Tensor, labels: Tensor | None, source: Randomness) -> Tensor:
        """The noise of each image, made of the rows of `eps`; shape (B, ...), as both.

        Args:
            x_0: images.
            eps: as many independent noises.
            labels: the class of each image that the network is told, shape (B,), or None. Noises are exchanged within a
                class alone: otherwise what a class is given would no longer be normal, and its samples begin there.
            source: of random numbers.
        """


class Independent(Coupling):
    """Any noise with any image, as in diffusion."""

    def __call__(self, x_0: Tensor, eps: Tensor, labels: Tensor | None, source: Randomness) -> Tensor:
        return eps


class _Transport(Coupling):
    """Couples by the squared distances between images and noises, class by class."""

    def __call__(self, x_0: Tensor, eps: Tensor, labels: Tensor | None, source: Randomness) -> Tensor:
        u, chosen = uniform(len(x_0), source), torch.arange(len(x_0))
        for group in _groups(labels, len(x_0)):
            there = group.to(x_0.device)
            distances = torch.cdist(x_0[there].flatten(1).float(), eps[there].flatten(1).float())
            chosen[group] = group[self._assigned(distances.square().cpu().double(), u[group])]
        return eps[chosen.to(eps.device)]

    @abstractmethod
    def _assigned(self, cost: Tensor, u: Tensor) -> Tensor:
        """The column for each row of `cost`, shape (N, N), from a number in [0, 1) for each."""


class OptimalTransport(_Transport):
    """The exact assignment within a batch: the permutation of the noises with the least sum of squared distances.

    Tong et al. 2024, section 3.2; Pooladian et al. 2023, algorithm 1. The package scipy solves it, in a time that grows
    with the cube of the batch.

    Raises:
        InputError: scipy is not installed.
    """

    def _assigned(self, cost: Tensor, u: Tensor) -> Tensor:
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise InputError("The coupling optimal needs the package scipy: pip install 'clearwater[flow]'.") from None
        _, columns = linear_sum_assignment(cost.numpy())
        return torch.from_numpy(columns)


@dataclass(frozen=True)
class Sinkhorn(_Transport):
    """Entropic transport within a batch: each image draws its noise from its row of the plan.

    (Tong et al. 2024, section 3.2; Cuturi 2013.) A noise may be drawn twice in a batch, and another not at all; over
    batches each keeps its law. The package POT finds the plan.

    Attributes:
        regularization: of the entropy, as a share of the mean squared distance: towards 0 it is `OptimalTransport`, for
            large ones `Independent`.

    Raises:
        InputError: POT is not installed.
    """

    regularization: float = 0.05

    def __post_init__(self) -> None:
        if not self.regularization > 0:
            raise InputError(f"The regularization of Sinkhorn's coupling is above zero, not {self.regularization}.")

    def _assigned(self, cost: Tensor, u: Tensor) -> Tensor:
        try:
            import ot
        except ImportError:
            raise InputError("The coupling sinkhorn needs the package POT: pip install 'clearwater[flow]'.") from None
        n = len(cost)
        even = torch.full((n,), 1 / n, dtype=torch.float64).numpy()
        strength = self.regularization * float(cost.mean())
        # In logarithms it takes ten times as long, and is needed where exp of the costs would be 0 in float64.
        method = "sinkhorn" if float(cost.max()) < _NO_ZERO * strength else "sinkhorn_log"
        plan = torch.from_numpy(
            ot.sinkhorn(even, even, cost.numpy(), strength, method=method, stopThr=1e-6, warn=False)
        )
        cumulative = plan.cumsum(1)
        drawn = torch.searchsorted(cumulative / cumulative[:, -1:], u[:, None], right=True)[:, 0]
        return drawn.clamp(max=n - 1)


def _groups(labels: Tensor | None, n: int) -> list[Tensor]:
    """The rows of each class, of `n` rows; all in one if there are no classes."""
    rows: dict[int, list[int]] = {}
    for row, label in enumerate([0] * n if labels is None else labels.tolist()):
        rows.setdefault(label, []).append(row)
    return [torch.tensor(each) for each in rows.values()]
