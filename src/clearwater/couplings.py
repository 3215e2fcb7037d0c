"""Which noise goes with which image of a batch: flow matching may choose, as long as each keeps its own law.

Paths between images and noises that lie near each other cross less, so they are straighter, and fewer steps do (Tong et
al. 2024; Pooladian et al. 2023). What is learned then is a flow alone: x_t is no longer the image under independent
noise, so its velocity is not that of a score, and samplers that add noise on the way leave its marginals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.randomness import Randomness, uniform

__all__ = ["Coupling", "Independent", "OptimalTransport", "Sinkhorn"]

_NO_ZERO = 500.0  # exp(-500) is a number
_LEAST = 0.05


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
            # Of a squared distance all but this belongs to the image or to the noise alone, whatever their pairs.
            products = x_0[there].flatten(1).float() @ eps[there].flatten(1).float().T
            chosen[group] = group[self._assigned(-2 * products.cpu().double(), u[group])]
        return eps[chosen.to(eps.device)]

    @abstractmethod
    def _assigned(self, cost: Tensor, u: Tensor) -> Tensor:
        """The column for each row of `cost`, shape (N, N), from a number in [0, 1) for each row.

        Costs are known up to what all of a row, or all of a column, have in common.
        """


@dataclass(frozen=True)
class OptimalTransport(_Transport):
    """The exact assignment within a batch: the permutation of the noises with the least sum of squared distances.

    Tong et al. 2024, section 3.2; Pooladian et al. 2023, algorithm 1. The package scipy solves it, in a time that grows
    with the cube of the batch.

    Raises:
        InputError: scipy is not installed.
    """

    def __post_init__(self) -> None:
        _need("optimal", "scipy", "scipy")

    def _assigned(self, cost: Tensor, u: Tensor) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        _, columns = linear_sum_assignment(cost.numpy())
        return torch.from_numpy(columns)


@dataclass(frozen=True)
class Sinkhorn(_Transport):
    """Entropic transport within a batch: each image draws its noise from its row of the plan.

    (Tong et al. 2024, section 3.2; Cuturi 2013.) A noise may be drawn twice in a batch, and another not at all; over
    batches each keeps its law. The package POT finds the plan.

    Attributes:
        regularization: of the entropy, in standard deviations of what the squared distances are beyond the means of
            their row and column, which no plan depends on: for small ones it is nearly `OptimalTransport`, for large
            ones `Independent`. At least 0.05: below that the plan takes too many iterations.

    Raises:
        InputError: POT is not installed.
    """

    regularization: float = 0.1

    def __post_init__(self) -> None:
        if not self.regularization >= _LEAST:
            raise InputError(
                f"The regularization of Sinkhorn's coupling is at least {_LEAST}, not {self.regularization}: for less, "
                "take the coupling optimal."
            )
        _need("sinkhorn", "ot", "POT")

    def _assigned(self, cost: Tensor, u: Tensor) -> Tensor:
        import ot

        n = len(cost)
        even = torch.full((n,), 1 / n, dtype=torch.float64).numpy()
        centred = cost - cost.mean(0) - cost.mean(1, keepdim=True) + cost.mean()
        strength = self.regularization * float(centred.square().mean().sqrt())
        if n == 1 or not strength > 0:  # every plan costs the same
            return torch.arange(n)
        # The plan is the same, and exp of the costs is further from 0.
        cost = cost - cost.amin(1, keepdim=True)
        cost = cost - cost.amin(0)
        # In logarithms it takes ten times as long, and is needed where exp of the costs would be 0 in float64.
        method = "sinkhorn" if float(cost.max()) < _NO_ZERO * strength else "sinkhorn_log"
        plan = torch.from_numpy(
            ot.sinkhorn(even, even, cost.numpy(), strength, method=method, stopThr=1e-6, warn=False)
        )
        cumulative = plan.cumsum(1)
        drawn = torch.searchsorted(cumulative / cumulative[:, -1:], u[:, None], right=True)[:, 0]
        return drawn.clamp(max=n - 1)


def _need(coupling: str, module: str, package: str) -> None:
    if find_spec(module) is None:
        raise InputError(f"The coupling {coupling} needs the package {package}: pip install 'clearwater[flow]'.")


def _groups(labels: Tensor | None, n: int) -> list[Tensor]:
    """The rows of each class, of `n` rows; all in one if there are no classes."""
    rows: dict[int, list[int]] = {}
    for row, label in enumerate([0] * n if labels is None else labels.tolist()):
        rows.setdefault(label, []).append(row)
    return [torch.tensor(each) for each in rows.values()]
