"""UniPC (Zhao et al. 2023, arXiv:2302.04867): a multistep predictor whose steps are corrected when more is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.sampling.dpm_solver import first_order, half_log_snr, usable
from clearwater.sampling.steps import AtLogSNR, LinearStep, Memory, Noise, Step, Stepper, combined
from clearwater.targets import Prediction

__all__ = ["UniPC"]


@dataclass(frozen=True)
class _CorrectedStep:
    """A step that first corrects the one before it with the prediction at its end, then goes on.

    Attributes:
        correction: how x_t is made anew from the x before it: (a, b_0, b_1, …), b_0 of the prediction at x_t.
        onward: the step from the corrected x_t.
    """

    correction: tuple[float, ...] | None
    onward: LinearStep

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        prediction = denoiser(x_t, self.onward.t)
        known = (prediction.x_0, *memory[1:])  # memory: the x before, then the predictions, newest first
        corrected = x_t
        if self.correction is not None:
            corrected = combined(self.correction[0], memory[0], self.correction[1:], known)
        x_s = combined(self.onward.x, corrected, self.onward.data, known)
        return x_s, prediction, (corrected, *known[: self.onward.remembered])


@dataclass(frozen=True)
class UniPC(Stepper):
    """UniPC on the predicted data: one evaluation a step, deterministic.

    With the correction the order is one above that of the predictor alone.

    Attributes:
        order: of the predictor, 1, 2 or 3.
        b: B(h), h for bh1 and expm1(h) for bh2.
    """

    order: Literal[1, 2, 3] = 2
    b: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3) or self.b not in ("bh1", "bh2"):
            raise InputError(f"UniPC has order 1, 2 or 3 and b bh1 or bh2, not {self.order} and {self.b}.")

    @property
    def multistep(self) -> bool:
        return True

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        lambdas = half_log_snr(path)
        steps: list[Step] = []
        correction = None
        for i in range(len(path) - 1):
            t, s = path[i], path[i + 1]
            order = usable(self.order, i, lambdas)
            a, b = first_order(t, s)
            data: tuple[float, ...] = (b,)
            if order > 1:
                data = tuple(float(s.alpha) * w for w in self._weights(lambdas, i, order, corrector=False))
            onward = LinearStep(t, a, data, remembered=self.order)
            steps.append(_CorrectedStep(correction, onward))
            correction = None
            if math.isfinite(lambdas[i]) and math.isfinite(lambdas[i + 1]):
                corrected = self._weights(lambdas, i, order, corrector=True)
                correction = (a, *(float(s.alpha) * w for w in corrected))
        return steps

    def _weights(self, lambdas: Sequence[float], i: int, order: int, corrector: bool) -> list[float]:
        """What the predictions are multiplied by in x_s / alpha_s, newest first; a corrector's first is that at x_s."""
        h = lambdas[i + 1] - lambdas[i]
        phi_1 = math.expm1(-h)
        B = -h if self.b == "bh1" else phi_1
        # The nodes: earlier predictions, and, for the corrector, the one at the end of the step.
        r = [(lambdas[i - j] - lambdas[i]) / h for j in range(1, order)] + ([1.0] if corrector else [])
        rho = self._rho(r, h, B, corrector and order == 1)
        of_nodes = [-B * weight / node for weight, node in zip(rho, r, strict=True)]
        own = -phi_1 - sum(of_nodes)
        if corrector:
            return [of_nodes[-1], own, *of_nodes[:-1]]
        return [own, *of_nodes]

    @staticmethod
    def _rho(r: list[float], h: float, B: float, single: bool) -> list[float]:
        """The weights of the divided differences: those that make the method exact for polynomials (eq. 9)."""
        if single or (len(r) == 1 and r[0] != 1.0):
            return [0.5]  # as in the paper's code, where one difference needs no system
        phi, factorial, right = math.expm1(-h) / -h - 1, 1.0, []
        for j in range(1, len(r) + 1):
            right.append(phi * factorial / B)
            factorial *= j + 1
            phi = phi / -h - 1 / factorial
        nodes = torch.tensor(r, dtype=torch.float64)
        rows = torch.stack([nodes**j for j in range(len(r))])
        solved: list[float] = torch.linalg.solve(rows, torch.tensor(right, dtype=torch.float64)).tolist()
        return solved
