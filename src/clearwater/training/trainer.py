"""Training (Ho et al. 2020, algorithm 1) as a generator of events."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from clearwater.assembly import build_chain, build_denoiser, build_learned_chain, build_objective
from clearwater.config import Config
from clearwater.data import Batches
from clearwater.data.batches import Images
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import ClearwaterError, InputError
from clearwater.objectives import Objective
from clearwater.randomness import derived_seed
from clearwater.training.averages import Averages
from clearwater.training.budget import budget, learning_rate_factor
from clearwater.training.checkpoint import Checkpoint, Place
from clearwater.training.ema import EMA
from clearwater.training.events import Event, NotSaved, Progress, Saved, Stopped, WentBack
from clearwater.training.guard import diverged
from clearwater.training.losses import Losses
from clearwater.training.optimization import Optimization
from clearwater.training.pairs import seed_of_pairs
from clearwater.training.parameters import CHAIN, begin_with, local, trained_parameters, whole
from clearwater.training.run import RunFolder, newest
from clearwater.world import World

__all__ = ["Trainer"]

_REPORT_SECONDS = 0.5
_ATTEMPTS = 3
_LOST_AT_MOST = 0.1  # of a run of minutes, between its checkpoints


class Trainer:
    """Trains the model of a configuration: ``for event in trainer``.

    Every random number of a step is a function of the seed and the step, so a run that ends after
    `steps` and was interrupted anywhere has the same final bits as an unbroken one, on the same machine with as many
    processes and threads.

    Attributes:
        config, objective, device: of the run.
        denoiser: the model with the weights in training.
        step, seconds: steps done and training time, over all parts of the run. Time that was spent on the way to
            training may be added.
        images_seen: images trained on so far, each as often as it was seen.
        reserve: seconds of a budget in minutes that are left for what comes after the last step.

    Args:
        config: the run; its data section says the channels of the images.
        data: the images.
        device: where to train.
        run: the folder to keep checkpoints in, whose newest one is gone on from; None keeps nothing.
        objective: what to make small, in place of what the configuration says.
        world: the processes that train together, each with a trainer of its own; alone if None.
        start: weights by name to begin with, such as another run's; random ones if None. A run that has a checkpoint
            goes on without.

    Raises:
        InputError: the configuration has no end, or starts from a run whose weights are not given; the checkpoint is
            of other images; the batch cannot be divided among the processes; the noise of images is wanted and not
            known.
        ClearwaterError: there are more processes than images in a batch.
    """

    def __init__(
        self,
        config: Config,
        data: Images,
        device: torch.device,
        run: RunFolder | None = None,
        objective: Objective | None = None,
        world: World | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        training = config.training
        self.config = config
        self.step, self.images_seen, self.seconds, self.reserve = 0, 0, 0.0, 0.0
        self._kept_seconds = 0.0  # in the checkpoint that is gone on from
        self._budget = budget(training)
        # What goes back in a short run must not lose most of it.
        minutes = math.inf if training.minutes is None else _LOST_AT_MOST * training.minutes
        self._save_seconds = 60 * min(training.save_minutes, minutes)
        self._run = run
        self._world = World() if world is None else world
        self.device = device
        self._stop = False
        self._data, self._data_digest = data, data.digest(labels=config.data.labels)
        self._start = start
        self.denoiser = self._new()
        self._network = self.denoiser.network
        self.objective = build_objective(config) if objective is None else objective
        self._first_times = self.objective.times.state()
        self._optimization = Optimization(config, self.denoiser, self.objective, device, self._world)
        if config.objective.coupling == "reflow":
            self._optimization.pairs = seed_of_pairs(config.data.source, len(data), data.shape)
        self._parameters = self._optimization.parameters
        begin_with(self._parameters, start)
        self._averages = Averages(self._parameters, training, run.snapshots if run else None)
        self._losses = Losses(f"{config.objective.model_dump_json()} {training.batch}", device, self._world)
        self._failures = 0
        self._begin_attempt(0)
        checkpoint = self._newest()
        if checkpoint is not None:
            self._load(checkpoint)
            self.seconds = self._kept_seconds = checkpoint.place.seconds
        elif training.start is not None and start is None:
            raise InputError(f"The run to start from, '{training.start}', has to give the weights to begin with.")
        else:
            self._averages.begin(first=self._world.first)
        if run is not None and self._world.first:
            run.accept()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self._data.shape

    @property
    def ema(self) -> EMA:
        """The average of the weights that the run is sampled with."""
        return self._averages.main

    def stop(self) -> None:
        """Asks training to save and end after the step it is in; safe in a signal handler."""
        self._stop = True

    def averaged(self) -> NetworkDenoiser:
        """A denoiser with the averaged weights as they are now, for sampling."""
        denoiser = replace(self.denoiser, network=self.ema.averaged(self._network))
        if self._optimization.learned_chain is None:
            return denoiser
        chain = build_chain(self.config.chain, self.ema.averaged(self._optimization.learned_chain, CHAIN))
        return replace(denoiser, chain=chain)

    def __iter__(self) -> Iterator[Event]:
        training = self.config.training
        _, _, stops = self._agree(report=False, save=False)  # each process has a clock of its own until here
        fraction = self._budget.fraction(self.step, self.seconds, self.reserve)
        if fraction >= 1 and self.step == 0:
            raise ClearwaterError(
                f"The time was over before the first step ({self.seconds:.0f} s): repeat the command, since what "
                "was prepared may be there already, or give more minutes."
            )
        resumed_at = self.step
        before, began = self.seconds, time.monotonic()

        def clock() -> float:
            return before + time.monotonic() - began

        reported_step, reported_at, saved_at = self.step, self.seconds, self.seconds
        self._network.train()
        while fraction < 1 and not stops:
            learning_rate = training.learning_rate * learning_rate_factor(training, self.step, fraction)
            fault = self._train_step(learning_rate)
            self.seconds = clock()
            report = self.seconds - reported_at >= _REPORT_SECONDS
            save = self._run is not None and self.seconds - saved_at >= self._save_seconds
            report, save, stops = self._agree(report=report, save=save)
            passed, fraction = fraction, self._budget.fraction(self.step, self.seconds, self.reserve)
            over = fraction >= 1 or stops
            seen = self._optimization.seen() if report or over else None
            lost = seen is not None and not math.isfinite(seen.loss)
            fault = fault or self._fault(closely=save or over or lost)
            if fault is not None:
                yield self._go_back(fault)
                fraction = self._budget.fraction(self.step, self.seconds, self.reserve)
                reported_step, reported_at = self.step, clock()
                continue
            if seen is not None:
                self._update_chain()
                yield Progress(
                    self.step,
                    self.seconds,
                    fraction,
                    seen.loss,
                    learning_rate,
                    (self.step - reported_step) * training.batch / max(self.seconds - reported_at, 1e-9),
                    seen.gradient_norm,
                    seen.level_losses,
                )
                reported_step, reported_at = self.step, clock()  # what is made of a report is not training
            if self._averages.due(passed, fraction):
                yield from self._kept()
            if save and not over:
                yield from self._saved(last=False)
                saved_at = clock()
            if self._stop and not over and self._world.size == 1:  # of many processes all have to hear of it first
                stops, fault = True, self._fault(closely=True)
                if fault is not None:
                    yield self._go_back(fault)
        self._update_chain()
        finished = fraction >= 1
        if finished:
            self.seconds = self._budget.spent(self.seconds)
        # The end may come without a step.
        if self.step > resumed_at or (finished and self.seconds > self._kept_seconds):
            yield from self._saved(last=True)
        yield Stopped(self.step, self.seconds, finished=finished)

    def _train_step(self, learning_rate: float) -> str | None:
        """Makes a step. Returns what went wrong if it could not be made."""
        try:
            self._losses.add(self._optimization.step(self.step, self._seed, learning_rate))
        except InputError as error:
            # Levels and variances that are no longer any: the settings were good when training began.
            if self._world.size > 1:  # the others have found nothing, and would wait for this one
                raise ClearwaterError(f"Step {self.step + 1} could not be made: {error}") from error
            return f"a step could not be made ({error})"
        self.step += 1
        self.images_seen += self.config.training.batch
        self._averages.update(self.step)
        return None

    def _agree(self, *, report: bool, save: bool) -> tuple[bool, bool, bool]:
        """What the first process's clock says is due, and whether any process was asked to stop, in all of them."""
        if self._world.size == 1:
            return report, save, self._stop
        of_clock = [self.seconds, self.reserve, report, save] if self._world.first else [0.0] * 4
        agreed = self._world.sum(torch.tensor([*of_clock, self._stop], dtype=torch.float64)).tolist()
        self.seconds, self.reserve, due, kept, stops = agreed
        return due > 0, kept > 0, stops > 0

    def _fault(self, *, closely: bool) -> str | None:
        """What is wrong with training, if that is looked at after this step; closely before the state is kept."""
        due = self._losses.due(self.step)
        if not due and not closely:
            return None
        fault = self._losses.fault() or self._optimization.fault()
        if fault is None and closely:
            # The loss is that of the weights before the step; what is kept must be good after it.
            norms = torch._foreach_norm([local(value.detach()) for value in self._parameters.values()])
            lost = ~torch.stack(norms).isfinite().all()
            fault = "a weight is no number" if float(self._world.sum(lost.double())) else None
        if fault is None and due:
            self._losses.remember()
        return fault

    def _go_back(self, fault: str) -> WentBack:
        """Takes up the last checkpoint again, or the beginning, with images and noise in another order.

        Raises:
            ClearwaterError: it has failed three times since then.
        """
        failed = self.step
        self._failures = self._world.told(self._failures) + 1
        checkpoint = self._newest()
        if self._failures >= _ATTEMPTS:
            raise diverged(
                f"{fault} after step {self.step}",
                _ATTEMPTS,
                kept=checkpoint is not None,
                losses=self._losses.history,
                training=self.config.training,
            )
        attempt = self._attempt + 1
        self._load(self._beginning() if checkpoint is None else checkpoint)
        self._begin_attempt(attempt)
        self._optimization.forget()
        return WentBack(self.step, failed, fault, attempt)

    def _begin_attempt(self, attempt: int) -> None:
        """Random numbers are of this attempt from here on."""
        self._attempt = attempt
        seed = self.config.training.seed
        self._seed = derived_seed(seed, "attempt", attempt) if attempt else seed
        self._optimization.batches = Batches(
            self._data,
            self.config.training.batch,
            seed=derived_seed(self._seed, "data"),
            flip=self.config.data.flip and not self.config.data.augment,  # which mirrors too, and tells
            device=self.device,
        )

    def _update_chain(self) -> None:
        """Gives the denoiser the learned chain as it is now, without gradients."""
        if self._optimization.learned_chain is not None:
            self.denoiser = replace(
                self.denoiser, chain=build_chain(self.config.chain, self._optimization.learned_chain)
            )

    def _new(self) -> NetworkDenoiser:
        """The denoiser with which training begins."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.config.training.seed, "weights"))
            return build_denoiser(self.config, self.device)

    def _beginning(self) -> Checkpoint:
        """The state before the first step."""
        parameters = trained_parameters(self._new().network, build_learned_chain(self.config.chain))
        begin_with(parameters, self._start)
        weights = {name: value.detach() for name, value in parameters.items()}
        place = Place(step=0, seconds=0.0, images=0, data=self._data_digest, measured=self._losses.measured)
        return Checkpoint(place, weights, weights, {}, self._first_times)

    def _newest(self) -> Checkpoint | None:
        return None if self._run is None else newest(self._run, self._world)

    def _kept(self) -> Iterator[Event]:
        """The first process keeps a copy of the averages of fixed length."""
        try:
            self._averages.keep(self.step, first=self._world.first)
        except OSError as error:
            yield NotSaved(self.step, error)

    def _saved(self, *, last: bool) -> Iterator[Event]:
        """The first process keeps the state; that this fails is an error if it is the last time."""
        losses = self._losses.state()
        if self._run is None:
            return
        network = whole({name: value.detach() for name, value in self._parameters.items()})
        averaged, lengths = whole(self.ema.parameters), self._averages.state()
        moments = whole(self._optimization.moments())
        if not self._world.first:
            return
        place = Place(
            step=self.step,
            seconds=self.seconds,
            images=self.images_seen,
            data=self._data_digest,
            attempt=self._attempt,
            scaler=self._optimization.scaler(),
            **losses,
        )
        checkpoint = Checkpoint(place, averaged, network, moments, self.objective.times.state(), lengths)
        try:
            folder = self._run.save(checkpoint, self.config)
        except OSError as error:
            if last:
                raise
            yield NotSaved(self.step, error)
        else:
            self._failures = 0  # the first process's count is everyone's
            yield Saved(folder, self.step)

    def _load(self, checkpoint: Checkpoint) -> None:
        place = checkpoint.place
        if place.data != self._data_digest:
            raise InputError(
                f"The images in '{self.config.data.source}' are not those that this run was trained on: put them "
                "back to go on with it, or train on these with another --out."
            )
        self.step, self.images_seen = place.step, place.images
        self._averages.load(checkpoint, first=self._world.first)
        self._optimization.load(checkpoint)
        if checkpoint.times and place.measured == self._losses.measured:  # what it remembers is of the losses
            self.objective.times.load(checkpoint.times)
        self._losses.load(place)
        self._begin_attempt(place.attempt)
        self._update_chain()
