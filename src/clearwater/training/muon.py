"""Muon (Jordan et al. 2024): weights that are matrices are moved by their momentum with all singular values made one.

A step of gradient descent changes a matrix mostly along the few directions in which its gradient is large. With the
momentum M = U S Vᵀ replaced by U Vᵀ all directions of it move alike, so rare ones are learned too. An iteration of
Newton and Schulz, odd polynomials of the matrix, comes near to U Vᵀ with matrix products alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Muon", "all_orthogonalized", "matrices", "orthogonalized"]

_OUTER = ("first.", "last.", "time.layer_1.", "label.", "augmented.", "chain.")
_ITERATIONS = 5
# x (a + b x² + c x⁴): steep at zero, so that five times of it bring nearly all to between 0.7 and 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_MOMENTUM = 0.95
_AS_ADAM = 0.2  # the root mean square of Adam's usual steps


def matrices(parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """The weights between hidden features, which Muon is for.

    Kernels are matrices from what they see to a feature. Biases, gains, and what touches pixels, times, classes or
    levels are not among them.
    """
    return [value for name, value in parameters.items() if value.ndim >= 2 and not name.startswith(_OUTER)]


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U Vᵀ of ``matrix = U S Vᵀ``: its singular values are brought to between 0.7 and 1.2, but for the smallest.

    Args:
        matrix: shape (..., M, N).

    Returns:
        The shape and dtype of `matrix`.
    """
    (turned,) = all_orthogonalized([matrix])
    return turned


def all_orthogonalized(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalized` of each; those whose smaller sides are equal go through the iteration together.

    Each polynomial is of X Xᵀ, so their product can be found from that small square matrix alone, and X is multiplied
    by it once: less than half of the arithmetic of iterating X, in float32 as exact as that, and few calls.
    """
    wide = [value.mT if value.shape[-2] > value.shape[-1] else value for value in matrices]
    scaled = [value / torch.linalg.matrix_norm(value, keepdim=True).clamp(min=1e-7) for value in wide]
    squares = [(value @ value.mT).reshape(-1, value.shape[-2], value.shape[-2]) for value in scaled]
    alike: dict[int, list[int]] = {}
    for i, square in enumerate(squares):
        alike.setdefault(square.shape[-1], []).append(i)
    turned = list(matrices)
    for indices in alike.values():
        products = _product_of_polynomials(torch.cat([squares[i] for i in indices]))
        for i, product in zip(indices, torch.split(products, [len(squares[i]) for i in indices]), strict=True):
            done = product.view(*scaled[i].shape[:-1], -1) @ scaled[i]
            turned[i] = done.mT if wide[i] is not matrices[i] else done
    return turned


def _product_of_polynomials(square: Tensor) -> Tensor:
    """What X is multiplied by in all iterations, for X Xᵀ of shape (B, M, M). It commutes with that, as all of it."""
    factor = product = _polynomial(square)
    for _ in range(_ITERATIONS - 1):
        square = factor @ (square @ factor)
        factor = _polynomial(square)
        product = product @ factor
    return product


def _polynomial(square: Tensor) -> Tensor:
    """What X is multiplied by in one iteration, for X Xᵀ of shape (B, M, M)."""
    factor = torch.baddbmm(square, square, square, beta=_B, alpha=_C)
    factor.diagonal(dim1=-2, dim2=-1).add_(_A)
    return factor


class Muon(torch.optim.AdamW):
    """Muon for some parameters, AdamW for the others, with one learning rate.

    The change of a matrix is multiplied by 0.2 √max(M, N), so that it is as large as Adam's (Liu et al. 2025, section
    2.2), and the same learning rate and weight decay do for both. Of a matrix one moment is kept, of the others two.

    Args:
        parameters: all of them.
        turned: which of these are matrices to turn; at least two dimensions each, all but the first taken as one.
        lr, betas, weight_decay: betas are AdamW's; the momentum of matrices is 0.95, Nesterov's.
        fused: whether AdamW's part is.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        turned: Collection[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
        self._step_supports_amp_scaling = False  # a fused step would look after overflows itself, and this one does not
        self._in_order = list(turned)
        self.turned = frozenset(turned)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes a step, and leaves the matrices without gradients."""
        (group,) = self.param_groups
        self._turn([parameter for parameter in self._in_order if parameter.grad is not None], group)
        super().step()  # which passes over parameters that have no gradient

    def _turn(self, parameters: list[nn.Parameter], group: Mapping[str, float]) -> None:
        """Moves matrices."""
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["step"] = torch.zeros(())  # which torch looks for in all that Adam has
                state["momentum"] = torch.zeros_like(parameter)
        weights: list[Tensor] = list(parameters)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        turned = all_orthogonalized([_matrix(value)[None] for value in ahead])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for matrix, parameter in zip(turned, parameters, strict=True):
            size = _AS_ADAM * math.sqrt(max(matrix.shape[-2:]))
            parameter.add_(_kernel(matrix[0], parameter), alpha=-group["lr"] * size)
            parameter.grad = None


def _matrix(value: Tensor) -> Tensor:
    """All dimensions but the first as one; a kernel's channels last, as they lie in memory."""
    return value.movedim(1, -1).flatten(1)


def _kernel(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.view(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)
