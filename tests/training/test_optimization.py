"""One step of training: in parts, in other precisions, with less memory, and what is seen of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError
from clearwater.randomness import RowStreams
from clearwater.training import Progress, Trainer, WentBack
from clearwater.training import losses as losses_module
from clearwater.training import trainer as trainer_module
from clearwater.training.optimization import _parts
from clearwater.world import World

CPU = torch.device("cpu")


def _trainer(config: Config) -> Trainer:
    return Trainer(config, ImageSet(torch.from_numpy(_pixels(40))), CPU)


def _pixels(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8), np.uint8)


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer._parameters.items()}


def _trained(config: Config) -> dict[str, Tensor]:
    trainer = _trainer(config)
    list(trainer)
    return _weights(trainer)


def _apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((value - b[name]).abs().max()) for name, value in a.items())


# --- rows


@given(st.integers(0, 70), st.integers(1, 40), st.integers(0, 2**60))
def test_a_row_has_the_same_noise_in_whatever_part_of_the_batch_it_is(first: int, n: int, seed: int) -> None:
    whole, part = RowStreams(seed, range(first + n + 20)), RowStreams(seed, range(first, first + n))
    for _ in range(2):
        noise = whole.normal(torch.zeros(first + n + 20, 3))
        assert torch.equal(part.normal(torch.zeros(n, 3)), noise[first : first + n])
        assert torch.equal(part.uniform(), whole.uniform()[first : first + n])


def test_noise_is_normal_and_of_every_row_and_draw_its_own() -> None:
    streams = RowStreams(0, range(4000))
    first, second = (streams.normal(torch.zeros(4000, 5)) for _ in range(2))
    both = torch.cat([first, second], 1).double()
    assert float(both.mean().abs()) < 4 / math.sqrt(both.numel())
    covariance = torch.cov(both.T)
    assert float((covariance - torch.eye(10, dtype=torch.float64)).abs().max()) < 5 * math.sqrt(2 / 4000)
    between = torch.corrcoef(both[:200])  # rows of one block, and of others
    assert float((between - torch.eye(200, dtype=torch.float64)).abs().max()) < 1.0
    assert len(both[:, 0].unique()) == 4000


@given(st.integers(1, 100), st.integers(1, 9), st.none() | st.integers(1, 40))
def test_the_rows_of_all_processes_are_the_batch_in_its_order(batch: int, size: int, microbatch: int | None) -> None:
    if size > batch:
        with pytest.raises(ClearwaterError, match=f"{size} processes for batches of {batch} images"):
            _parts(batch, microbatch, World(0, size))
        return
    parts = [part for rank in range(size) for part in _parts(batch, microbatch, World(rank, size))]
    assert [row for part in parts for row in part] == list(range(batch))
    assert max(map(len, parts)) <= (microbatch or batch)
    shares = [sum(map(len, _parts(batch, microbatch, World(rank, size)))) for rank in range(size)]
    assert max(shares) - min(shares) <= 1


# --- a batch in parts


@pytest.mark.parametrize("microbatch", [1, 7, 16, 20])
@pytest.mark.parametrize(
    "sets",
    [
        ("data.flip=true",),
        ("objective=vlb", "chain.levels=20"),
        ("objective=hybrid", "objective.times=low_discrepancy"),
        ("objective=vlb", "chain.name=learned", "chain.levels=5", "chain.variance=fixed_small"),
    ],
    ids=["simple", "importance", "hybrid", "learned chain"],
)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    tiny: Callable[..., Config], microbatch: int, sets: tuple[str, ...]
) -> None:
    # With plain descent in place of Adam, which would make much of roundings, weights differ as gradients do.
    config = tiny(*sets, "training.batch=20", "model.dropout=0", "training.steps=1")
    grads = []
    for more in ((), (f"training.microbatch={microbatch}",)):
        trainer = _trainer(tiny(*sets, "training.batch=20", "model.dropout=0", "training.steps=1", *more))
        with torch.no_grad():
            weights = torch.Generator().manual_seed(0)
            for parameter in trainer._parameters.values():  # a new network's zeros would hide most of it
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=weights))
        kept: dict[str, Tensor] = {}

        def update(rate: float, trainer: Trainer = trainer, kept: dict[str, Tensor] = kept) -> None:
            kept.update({name: value.grad.clone() for name, value in trainer._parameters.items()})

        trainer._optimization._update = update
        trainer._optimization.step(0, config.training.seed, 0.0)
        grads.append(kept)
    for name, gradient in grads[0].items():
        scale = max(float(gradient.abs().max()), 1e-3 * max(float(g.abs().max()) for g in grads[0].values()))
        assert float((grads[1][name] - gradient).abs().max()) < 1e-4 * scale, name


def test_importance_sampling_is_told_the_losses_of_all_parts(tiny: Callable[..., Config]) -> None:
    states = []
    for more in ((), ("training.microbatch=3",)):
        trainer = _trainer(
            tiny("objective=vlb", "chain.levels=5", "training.batch=20", "model.dropout=0", "training.steps=3", *more)
        )
        list(trainer)
        states.append(trainer.objective.times.state())
    assert torch.equal(states[0]["seen"], states[1]["seen"])
    torch.testing.assert_close(states[0]["recent"], states[1]["recent"], rtol=1e-3, atol=1e-5)


# --- precision, memory


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_another_precision_trains_nearly_as_float32(tiny: Callable[..., Config], precision: str) -> None:
    settings = ("training.steps=6", "model.dropout=0", "training.warmup=0")
    exact = _trained(tiny(*settings))
    begun = _weights(_trainer(tiny(*settings)))
    close = _trained(tiny(*settings, f"training.precision={precision}"))
    moved = math.sqrt(sum(float((exact[name] - value).square().sum()) for name, value in begun.items()))
    apart = math.sqrt(sum(float((exact[name] - value).square().sum()) for name, value in close.items()))
    assert apart < {"bf16": 0.2, "fp16": 0.05, "tf32": 1e-6}[precision] * moved
    assert (apart > 0) == (precision != "tf32")  # a processor has none: it is float32


def test_in_fp16_a_gradient_that_overflows_makes_the_scale_smaller_and_leaves_the_weights(
    tiny: Callable[..., Config],
) -> None:
    trainer = _trainer(tiny("training.precision=fp16", "training.steps=1"))
    assert trainer._optimization.scaler()["scale"] == 65536
    before = _weights(trainer)
    next(trainer.denoiser.network.parameters()).register_hook(lambda gradient: gradient * math.inf)
    trainer._optimization.step(0, 0, 1e-3)
    assert trainer._optimization.scaler()["scale"] == 32768
    assert _apart(_weights(trainer), before) == 0


def test_a_scale_that_falls_for_ever_is_a_failure_and_not_silence(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses_module, "CHECK_STEPS", 20)
    trainer = _trainer(tiny("training.precision=fp16", "training.steps=100"))
    next(trainer.denoiser.network.parameters()).register_hook(lambda gradient: gradient * math.inf)
    events = []
    with pytest.raises(ClearwaterError, match="overflow fp16"):
        events.extend(trainer)
    assert trainer.step == 20  # 2^16 halved seventeen times


def test_the_scale_of_fp16_goes_on_where_it_was(tiny: Callable[..., Config]) -> None:
    config = tiny("training.precision=fp16", "training.steps=3")
    trainer, resumed = _trainer(config), _trainer(config)
    trainer._optimization.load_scaler({**trainer._optimization.scaler(), "scale": 512.0})
    list(trainer)
    scaler = trainer._optimization.scaler()
    assert (scaler["scale"], scaler["_growth_tracker"]) == (512, 3)
    resumed._optimization.load_scaler(scaler)
    assert resumed._optimization.scaler() == scaler


def test_recomputing_changes_nothing_but_memory(tiny: Callable[..., Config]) -> None:
    sets = ("model.dropout=0.2", "model.multipliers=[1, 1]", "training.steps=3", "model.patch=1")
    kept, again = _trained(tiny(*sets)), _trained(tiny(*sets, "training.recompute=true"))
    assert _apart(kept, again) == 0


def test_recomputing_keeps_fewer_tensors_for_the_backward_pass(tiny: Callable[..., Config]) -> None:
    held = []
    for recompute in (False, True):
        network = _trainer(tiny("model.blocks=4", f"training.recompute={str(recompute).lower()}")).denoiser.network
        size = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.train()(torch.zeros(4, 1, 8, 8), torch.zeros(4))
        held.append(size)
    assert held[1] < 0.5 * held[0]


# --- what is seen


def test_the_losses_of_the_tenths_are_those_of_their_levels(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", math.inf)
    trainer = _trainer(tiny("training.batch=20", "training.steps=5", "chain.levels=40"))
    seen: list[tuple[int, float]] = []
    plain = trainer.objective.at

    def at(*arguments: object) -> Tensor:
        losses = plain(*arguments)
        seen.extend(zip(arguments[2].tolist(), losses.detach().tolist(), strict=True))
        return losses

    object.__setattr__(trainer.objective, "at", at)
    (progress,) = [event for event in trainer if isinstance(event, Progress)]
    assert len(seen) == 100
    for tenth, mean in enumerate(progress.level_losses):
        of_tenth = [loss for k, loss in seen if (k - 1) // 4 == tenth]
        assert of_tenth
        assert mean == pytest.approx(math.fsum(of_tenth) / len(of_tenth), rel=1e-5)
    assert progress.loss == pytest.approx(math.fsum(loss for _, loss in seen) / 100, rel=1e-5)


def test_the_norm_of_the_gradient_is_that_before_clipping(tiny: Callable[..., Config]) -> None:
    norms = []
    for clip in ("1e-9", "1e9"):
        settings = ("training.steps=1", f"training.clip={clip}")
        (progress,) = [event for event in _trainer(tiny(*settings)) if isinstance(event, Progress)]
        norms.append(progress.gradient_norm)
    assert norms[0] == norms[1] > 1e-6


def test_adamw_shrinks_what_has_no_gradient(tiny: Callable[..., Config]) -> None:
    sets = ("training.optimizer=adamw", "training.weight_decay=0.5", "training.warmup=0", "training.anneal=constant")
    trainer = _trainer(tiny(*sets, "training.steps=1", "training.learning_rate=0.1"))
    before = _weights(trainer)
    list(trainer)
    # The last layer begins as zeros, so no gradient comes to what is before it in the first step.
    name = "first.weight"
    torch.testing.assert_close(_weights(trainer)[name], before[name] * (1 - 0.1 * 0.5))


def test_going_back_is_no_event_of_a_sound_run(tiny: Callable[..., Config]) -> None:
    assert not [event for event in _trainer(tiny()) if isinstance(event, WentBack)]
