"""Training (Ho et al. 2020, algorithm 1) as a generator of events."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from clearwater.assembly import build_chain, build_denoiser, build_learned_chain, build_objective
from clearwater.config import Config
from clearwater.data import Batches, ImageSet
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import ClearwaterError, InputError
from clearwater.objectives import Objective
from clearwater.randomness import derived_seed, generator
from clearwater.training.budget import budget, learning_rate_factor
from clearwater.training.checkpoint import Checkpoint, RunFolder
from clearwater.training.ema import EMA
from clearwater.training.parameters import CHAIN, trained_parameters

__all__ = ["Event", "Progress", "Saved", "Stopped", "Trainer"]

_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """How training goes.

    Attributes:
        step: steps done.
        seconds: training time, over all its parts if it was interrupted.
        fraction: of the way to the end, 0 to 1.
        loss: mean over the steps since the last report.
        learning_rate: of the last step.
        images_per_second: since the last report.
    """

    step: int
    seconds: float
    fraction: float
    loss: float
    learning_rate: float
    images_per_second: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    folder: Path
    step: int


@dataclass(frozen=True)
class Stopped:
    """Training is over, its state saved: `finished` says whether it came to its end or was asked to stop."""

    step: int
    seconds: float
    finished: bool


Event = Progress | Saved | Stopped


class Trainer:
    """Trains the model of a configuration: ``for event in trainer``.

    Every random number of a step is a function of the seed and the step, so a run that ends after
    `steps` and was interrupted anywhere has the same final bits as an unbroken one.

    Args:
        config: the run; its data section says the channels of the images.
        data: the images.
        device: where to train.
        run: the folder to keep checkpoints in, whose newest one is gone on from; None keeps nothing.
        objective: what to make small, in place of what the configuration says.
    """

    def __init__(
        self,
        config: Config,
        data: ImageSet,
        device: torch.device,
        run: RunFolder | None = None,
        objective: Objective | None = None,
    ) -> None:
        training = config.training
        self.config = config
        self.step, self.seconds = 0, 0.0
        self._budget = budget(training)
        self._run = run
        self._stop = False
        self._saved = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(training.seed, "weights"))
            self.denoiser = build_denoiser(config, device)
        self._device = device
        self._network = self.denoiser.network
        self._learned_chain = build_learned_chain(config.chain)
        self._parameters = trained_parameters(self._network, self._learned_chain)
        self._objective = build_objective(config) if objective is None else objective
        self._batches = Batches(
            data, training.batch, seed=derived_seed(training.seed, "data"), flip=config.data.flip, device=device
        )
        self._optimizer = torch.optim.Adam(
            self._parameters.values(), lr=training.learning_rate, betas=training.betas, fused=device.type != "mps"
        )
        self.ema = EMA(self._parameters, training.ema_decay, training.ema_gamma)
        self._data_digest = data.digest(labels=config.data.labels)
        checkpoint = run.latest() if run else None
        if checkpoint is not None:
            self._load(checkpoint)

    @property
    def images_seen(self) -> int:
        """Images trained on so far, each as often as it was seen."""
        return self.step * self.config.training.batch

    def stop(self) -> None:
        """Asks training to save and end after the step it is in; safe in a signal handler."""
        self._stop = True

    def averaged(self) -> NetworkDenoiser:
        """A denoiser with the averaged weights as they are now, for sampling."""
        denoiser = replace(self.denoiser, network=self.ema.averaged(self._network))
        if self._learned_chain is None:
            return denoiser
        return replace(denoiser, chain=build_chain(self.config.chain, self.ema.averaged(self._learned_chain, CHAIN)))

    def __iter__(self) -> Iterator[Event]:
        training = self.config.training
        fraction = self._budget.fraction(self.step, self.seconds)
        resumed_at = self.step
        before, began = self.seconds, time.monotonic()
        reported_step, reported_at, saved_at = self.step, self.seconds, self.seconds
        total = torch.zeros((), device=self._device)
        self._network.train()
        while fraction < 1 and not self._stop:
            learning_rate = training.learning_rate * learning_rate_factor(training, self.step, fraction)
            try:
                total += self._train_step(learning_rate)
            except InputError as error:
                # Levels and variances that are no longer any: the settings were good when training began.
                self._refuse_diverged(f"training has diverged ({error})")
            self.step += 1
            self.seconds = before + time.monotonic() - began
            fraction = self._budget.fraction(self.step, self.seconds)
            over = fraction >= 1 or self._stop
            if over or self.seconds - reported_at >= _REPORT_SECONDS:
                self._update_chain()
                mean = float(total) / (self.step - reported_step)
                self._refuse_nonfinite("The loss", mean)
                speed = (self.step - reported_step) * training.batch / max(self.seconds - reported_at, 1e-9)
                yield Progress(self.step, self.seconds, fraction, mean, learning_rate, speed)
                total.zero_()
                reported_step, reported_at = self.step, self.seconds
            if not over and self.seconds - saved_at >= 60 * training.save_minutes and self._run is not None:
                yield self._save(self._run)
                saved_at = self.seconds
        self._update_chain()
        if self._run is not None and self.step > resumed_at:
            yield self._save(self._run)
        yield Stopped(self.step, self.seconds, finished=fraction >= 1)

    def _train_step(self, learning_rate: float) -> Tensor:
        seed = self.config.training.seed
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(derived_seed(seed, "dropout", self.step))  # dropout draws from the global stream
            of_step = generator(seed, "objective", self.step)
            denoiser = self.denoiser
            if self._learned_chain is not None:
                denoiser = replace(denoiser, chain=self._learned_chain.chain())  # anew, with its gradients
            if self.config.data.labels:
                denoiser = replace(denoiser, labels=self._labels())
            loss = self._objective(denoiser, self._batches(self.step), of_step).mean()
            torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.config.training.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.step + 1)
        return loss.detach()

    def _update_chain(self) -> None:
        """Gives the denoiser the learned chain as it is now, without gradients."""
        if self._learned_chain is not None:
            self.denoiser = replace(self.denoiser, chain=build_chain(self.config.chain, self._learned_chain))

    def _labels(self) -> Tensor:
        """The classes of the step's images, some of them withheld: replaced by the number after the last class."""
        training, none = self.config.training, len(self.config.data.classes or ())
        withheld = torch.rand(training.batch, generator=generator(training.seed, "labels", self.step))
        labels = self._batches.labels(self.step)
        return labels.masked_fill(withheld < training.label_dropout, none).to(self._device, non_blocking=True)

    def _refuse_nonfinite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            self._refuse_diverged(f"{what} is {value}")

    def _refuse_diverged(self, what: str) -> NoReturn:
        kept = "the last checkpoint is kept" if self._saved else "nothing was saved yet"
        raise ClearwaterError(
            f"{what[0].upper()}{what[1:]} after step {self.step}, so training cannot go on; {kept}. "
            "Try a lower training.learning_rate, or training.precision=fp32."
        )

    def _save(self, run: RunFolder) -> Saved:
        live = {name: value.detach() for name, value in self._parameters.items()}
        for value in live.values():
            # The loss is that of the weights before the step; what is kept must be good after it.
            self._refuse_nonfinite("A weight", float(value.sum()))
        optimizer = {
            f"{name}/{key}": value
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state[parameter].items()
        }
        checkpoint = Checkpoint(
            step=self.step,
            seconds=self.seconds,
            images=self.images_seen,
            data=self._data_digest,
            averaged=self.ema.parameters,
            network=live,
            optimizer=optimizer,
            times=self._objective.times.state(),
        )
        folder = run.save(checkpoint, self.config)
        self._saved = True
        return Saved(folder, self.step)

    def _load(self, checkpoint: Checkpoint) -> None:
        if checkpoint.data != self._data_digest:
            raise InputError(
                f"The images in '{self.config.data.source}' are not those that this run was trained on: put them "
                "back to go on with it, or train on these with another --out."
            )
        self._saved = True
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        self.ema.load(checkpoint.averaged)
        if checkpoint.times:
            self._objective.times.load(checkpoint.times)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(checkpoint.network[name])
        self._update_chain()
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self._parameters.items()):
            moments[index] = {
                # Fused Adam walks through weights and moments as they lie in memory, so the layouts must agree.
                key.rpartition("/")[2]: torch.empty_like(parameter).copy_(value) if value.ndim else value
                for key, value in checkpoint.optimizer.items()
                if key.rpartition("/")[0] == name
            }
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
