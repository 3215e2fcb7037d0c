"""One step of training: the gradient of a batch's loss, in parts and over processes, and the optimiser's step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from clearwater.assembly import build_learned_chain
from clearwater.config import Config
from clearwater.data import Batches
from clearwater.data.augmentation import augmented
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import ClearwaterError, InputError
from clearwater.levels import scale
from clearwater.objectives import Objective
from clearwater.randomness import KnownNoise, RowStreams, derived_seed, generator
from clearwater.training.checkpoint import Checkpoint
from clearwater.training.optimizers import moments_of, optimizer
from clearwater.training.parameters import copy_into, trained_parameters, whole
from clearwater.world import World

__all__ = ["Optimization", "Seen"]

_TENTHS = 10
_WHOLE = {"growth_interval", "_growth_tracker"}  # of a scaler's state
_LOSS_SCALE, _SMALLEST_LOSS_SCALE = 2.0**16, 1.0


@dataclass(frozen=True)
class Seen:
    """What was seen over some steps, by all processes.

    Attributes:
        loss: its mean.
        gradient_norm: the mean norm of the gradient, before clipping.
        level_losses: the mean loss in each tenth of the levels, NaN where there was no image.
    """

    loss: float
    gradient_norm: float
    level_losses: tuple[float, ...]


class Optimization:
    """The steps of a run, each a function of the weights, the seed and the step's number.

    The batch is of the run, not of the process: each process takes an equal part of its rows, in pieces of
    `training.microbatch` images if that is set, and all of them end with the same gradient.

    Attributes:
        parameters: all that is trained, by name.
        learned_chain: the levels, if they are trained too.
        batches: the images; to be set before the first step.
        pairs: the seed of the noise that the images were made of, if they are trained with it.

    Args:
        config: the run.
        denoiser: what is trained, in place.
        objective: what is made small.
        device: where the network is.
        world: the processes that share the batch.
    """

    def __init__(
        self,
        config: Config,
        denoiser: NetworkDenoiser,
        objective: Objective,
        device: torch.device,
        world: World,
    ) -> None:
        training = config.training
        self._config, self._objective = config, objective
        self._device, self._world = device, world
        self.batches: Batches
        self.pairs: int | None = None
        self.learned_chain = build_learned_chain(config.chain)
        self._parts = _parts(training.batch, training.microbatch, world)
        if training.shard and training.batch % world.size:
            raise InputError(
                f"Batches of {training.batch} cannot be divided evenly among {world.size} processes, as training.shard "
                "needs it: take a multiple."
            )
        if training.shard and training.optimizer == "muon":
            raise InputError(
                "Muon takes whole matrices, and training.shard divides them: set training.optimizer to adam or adamw."
            )
        network = denoiser.network
        if training.compile:
            network.compile()
        self._network: nn.Module = network
        if world.size > 1:
            self._network = _sharded(network, device) if training.shard else _replicated(network, device)
        self.parameters = trained_parameters(network, self.learned_chain)  # after sharding, which replaces them
        self._denoiser = replace(denoiser, network=self._network)
        self._optimizer = optimizer(config.training, self.parameters, device)
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=_LOSS_SCALE, enabled=denoiser.autocast == torch.float16
        )
        self._begun = self.scaler()
        self._remembers = bool(objective.times.state())
        # Sums since they were last asked for: of the losses, of the norms; and of each tenth's losses and images.
        self._sums = torch.zeros(2, device=device)
        self._tenths = torch.zeros(2, _TENTHS, device=device)
        self._steps = 0

    def fault(self) -> str | None:
        """What is wrong with the precision, in words that follow "after step 7"; None if nothing is."""
        if self._scaler.is_enabled() and self._scaler.get_scale() < _SMALLEST_LOSS_SCALE:
            return "gradients overflow fp16 however small the loss is scaled"
        return None

    def step(self, step: int, seed: int, learning_rate: float) -> Tensor:
        """Makes the step with this number, from 0; its random numbers are of this seed.

        Returns:
            The loss of this process's part of the batch, shape (); its mean over the processes is the batch's.
        """
        training, T = self._config.training, self._denoiser.chain.T
        k, weight = self._objective.times(training.batch, T, generator(seed, "objective", step))
        labels = self._labels(step, seed) if self._config.data.labels else None
        losses, total = [], torch.zeros((), device=self._device)
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            for rows in self._parts:
                at = slice(rows.start, rows.stop)
                torch.manual_seed(derived_seed(seed, "dropout", step, rows.start))  # it draws from the global stream
                with self._unsynchronized(last=rows == self._parts[-1]):
                    denoiser = self._denoiser
                    if self.learned_chain is not None:
                        denoiser = replace(denoiser, chain=self.learned_chain.chain())  # anew, with its gradients
                    if labels is not None:
                        denoiser = replace(denoiser, labels=labels[at])
                    x_0 = self.batches(step, rows)
                    if self._config.data.augment:
                        changes = RowStreams(derived_seed(seed, "augmentation", step), rows)
                        x_0, done = augmented(x_0, self._config.data.augment, changes)
                        denoiser = replace(denoiser, augmented=done)
                    loss = self._objective.at(denoiser, x_0, k[at], self._noise(step, seed, rows))
                    # Gradients are the mean over processes, and this the process's part of the batch's mean.
                    mean = scale(weight[at], loss).sum() * (self._world.size / training.batch)
                    torch.autograd.backward(self._scaler.scale(mean))
                losses.append(loss.detach())
                total += mean.detach()
                self._count(k[at], losses[-1])
        if self._remembers:
            self._objective.times.observe(k, self._world.joined(torch.cat(losses)))
        if self.learned_chain is not None:  # its parameters are few, and not the network's
            for parameter in self.learned_chain.parameters():
                if parameter.grad is not None:
                    parameter.grad = self._world.sum(parameter.grad) / self._world.size
        self._update(learning_rate)
        self._sums[0] += total
        self._steps += 1
        return total

    def _noise(self, step: int, seed: int, rows: range) -> RowStreams:
        """The noise of these rows of a step's batch."""
        of_step = derived_seed(seed, "noise", step)
        if self.pairs is None:
            return RowStreams(of_step, rows)
        return KnownNoise((self.pairs, self.batches.numbers(step, rows)), of_step, rows)

    def seen(self) -> Seen:
        """What was seen since this was last asked for; all processes ask together."""
        sums = self._world.sum(self._sums / self._steps / self._world.size).tolist()
        losses, images = self._world.sum(self._tenths).tolist()
        self.forget()
        tenths = (loss / n if n else float("nan") for loss, n in zip(losses, images, strict=True))
        return Seen(sums[0], sums[1], tuple(tenths))

    def forget(self) -> None:
        """Begins anew with what `seen` tells of."""
        self._sums.zero_()
        self._tenths.zero_()
        self._steps = 0

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's tensors, "parameter name/moment"."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self._optimizer.state[parameter].items()
        }

    def scaler(self) -> dict[str, float]:
        """The scale of the loss in fp16, and what else decides on the next one; empty in other precisions."""
        return {name: float(value) for name, value in self._scaler.state_dict().items()}

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on from the weights, the moments and the scale of a checkpoint."""
        self._optimizer.zero_grad(set_to_none=True)  # of a step that was not finished
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                copy_into(parameter, checkpoint.network[name])
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self.parameters.items()):
            of_parameter = {
                key.rpartition("/")[2]: _like(parameter, value) if value.ndim else value
                for key, value in checkpoint.optimizer.items()
                if key.rpartition("/")[0] == name
            }
            if of_parameter.keys() == moments_of(
                self._optimizer, parameter
            ):  # of another optimizer there may be others
                moments[index] = of_parameter
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        self.load_scaler(checkpoint.place.scaler)

    def load_scaler(self, scaler: Mapping[str, float]) -> None:
        """Goes on from this scale of the loss; none is that of the beginning."""
        if self._scaler.is_enabled():
            whole = {name: int(value) if name in _WHOLE else value for name, value in (scaler or self._begun).items()}
            self._scaler.load_state_dict(whole)

    @contextmanager
    def _unsynchronized(self, *, last: bool) -> Iterator[None]:
        """Gradients stay in the process until the last part of its batch is done."""
        network = self._network
        if isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(last)
        with network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext():
            yield

    def _update(self, learning_rate: float) -> None:
        training = self._config.training
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), training.clip)
        self._sums[1] += whole({"norm": norm.detach()})["norm"]
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def _count(self, k: Tensor, loss: Tensor) -> None:
        tenth = ((k - 1) * _TENTHS // self._denoiser.chain.T).to(self._device, non_blocking=True)
        self._tenths.index_add_(1, tenth, torch.stack([loss.to(self._tenths), torch.ones_like(loss).to(self._tenths)]))

    def _labels(self, step: int, seed: int) -> Tensor:
        """The classes of the step's images, some of them withheld: replaced by the number after the last class."""
        training, none = self._config.training, len(self._config.data.classes or ())
        withheld = torch.rand(training.batch, generator=generator(seed, "labels", step))
        labels = self.batches.labels(step)
        return labels.masked_fill(withheld < training.label_dropout, none).to(self._device, non_blocking=True)


def _parts(batch: int, microbatch: int | None, world: World) -> list[range]:
    """The rows of the batch that this process takes, in pieces that fit.

    Raises:
        ClearwaterError: there are more processes than images in a batch.
    """
    if world.size > batch:
        raise ClearwaterError(
            f"There are {world.size} processes for batches of {batch} images: start at most {batch}, or set a larger "
            "training.batch."
        )
    first, stop = (batch * rank // world.size for rank in (world.rank, world.rank + 1))
    size = microbatch or batch
    return [range(start, min(start + size, stop)) for start in range(first, stop, size)]


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment as its parameter lies in memory: fused Adam walks through both together."""
    moment = torch.empty_like(parameter)
    copy_into(moment, value)
    return moment


def _replicated(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its gradients averaged over the processes, each of which has all of it."""
    only = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():  # the name of an option is about to change, and an older torch has only this
        warnings.simplefilter("ignore", FutureWarning)
        # Looking for unused parameters costs little, and keeps the buckets, in which sums are rounded, as they are from
        # the first step on: rebuilt after it, they would be others in a run that goes on than in one that did not stop.
        return DistributedDataParallel(network, device_ids=only, broadcast_buffers=False, find_unused_parameters=True)


def _sharded(network: nn.Module, device: torch.device) -> nn.Module:
    """The same network with its weights, gradients and moments divided among the processes, stage by stage."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # the only layout that can be divided
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for stage in network.children():
        for part in stage if isinstance(stage, nn.ModuleList) else [stage]:
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network
