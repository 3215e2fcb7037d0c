"""Muon (Jordan et al. 2024): weights that are matrices are moved by their momentum with all singular values made one.

A step of gradient descent changes a matrix mostly along the few directions in which its gradient is large. With the
momentum M = U S Vᵀ replaced by U Vᵀ all directions of it move alike, so rare ones are learned too. An iteration of
Newton and Schulz, odd polynomials of the matrix, comes near to U Vᵀ with matrix products alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["Muon", "matrices", "orthogonalized"]

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


def orthogonalized(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U Vᵀ of ``matrix = U S Vᵀ``: its singular values are brought to between 0.7 and 1.2, but for the smallest.

    Args:
        matrix: shape (..., M, N).
        dtype: what the products are computed in; bfloat16 is enough.

    Returns:
        The shape and dtype of `matrix`.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).to(dtype)  # the smaller side is squared
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    turned: Tensor = (x.mT if tall else x).to(matrix.dtype)
    return turned


class Muon(torch.optim.AdamW):
    """Muon for some parameters, AdamW for the others, with one learning rate.

    The change of a matrix is multiplied by 0.2 √max(M, N), so that it is as large as Adam's (Liu et al. 2025, section
    2.2), and the same learning rate and weight decay do for both. Of a matrix one moment is kept, of the others two.

    Args:
        parameters: all of them.
        turned: which of these are matrices to turn; at least two dimensions each, all but the first taken as one.
        lr, betas, weight_decay: betas are AdamW's; the momentum of matrices is 0.95, Nesterov's.
        dtype: what matrices are orthogonalized in.
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
        dtype: torch.dtype,
        fused: bool,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
        self._step_supports_amp_scaling = False  # a fused step would look after overflows itself, and this one does not
        self._dtype = dtype
        self.turned = frozenset(turned)
        self._alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in turned:
            self._alike.setdefault(tuple(parameter.shape), []).append(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes a step, and leaves the matrices without gradients."""
        (group,) = self.param_groups
        for alike in self._alike.values():
            self._turn([parameter for parameter in alike if parameter.grad is not None], group)
        super().step()  # which passes over parameters that have no gradient

    def _turn(self, parameters: list[nn.Parameter], group: Mapping[str, float]) -> None:
        """Moves matrices of one shape."""
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
        turned = orthogonalized(torch.stack([_matrix(value) for value in ahead]), self._dtype)
        size = _AS_ADAM * math.sqrt(max(turned.shape[-2:]))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        changes = [_kernel(matrix, parameter) for matrix, parameter in zip(turned, parameters, strict=True)]
        torch._foreach_add_(weights, changes, alpha=-group["lr"] * size)
        for parameter in parameters:
            parameter.grad = None


def _matrix(value: Tensor) -> Tensor:
    """All dimensions but the first as one; a kernel's channels last, as they lie in memory."""
    return value.movedim(1, -1).flatten(1)


def _kernel(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.view(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)
