"""The trainer: its step against one written by hand, its events, its refusals."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clearwater.config import Config
from clearwater.data import Batches, ImageSet
from clearwater.errors import ClearwaterError
from clearwater.randomness import derived_seed, generator
from clearwater.training import Progress, RunFolder, Stopped, Trainer
from clearwater.training import trainer as trainer_module

CPU = torch.device("cpu")


def _images(n: int = 10, size: int = 8) -> ImageSet:
    drawn = np.random.default_rng(0).integers(0, 256, (n, 1, size, size), np.uint8)
    return ImageSet(torch.from_numpy(drawn))


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.denoiser.network.named_parameters()}


def _largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress after every step."""
    monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", 0.0)


# --- the step


@pytest.mark.parametrize("clip", [1e9, 1e-7], ids=["not clipped", "clipped"])
def test_training_is_algorithm_1_with_adam_clipping_and_the_annealed_rate(
    tiny: Callable[..., Config], clip: float
) -> None:
    steps, T, rate, seed = 4, 50, 1e-4, 3
    config = tiny(
        "chain.name=linear",
        f"chain.levels={T}",
        "model.dropout=0",
        "training.betas=[0.8, 0.95]",
        f"training.steps={steps}",
        f"training.learning_rate={rate}",
        f"training.clip={clip}",
        f"training.seed={seed}",
    )
    data = _images()
    trainer = Trainer(config, data, CPU)
    network = copy.deepcopy(trainer.denoiser.network)
    start = _weights(trainer)
    list(trainer)

    # By hand: Ho et al. 2020, algorithm 1, on the same images, levels and noise.
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, T) * 1000 / T)
    batches = Batches(data, 4, seed=derived_seed(seed, "data"), flip=False, device=CPU)
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.8, 0.95), foreach=False, fused=False)
    for step in range(steps):
        x_0 = batches(step)
        draws = generator(seed, "objective", step)
        k = torch.randint(1, T + 1, (4,), generator=draws)
        # Of a batch's first block of 16 rows, whose numbers are of a stream of its own.
        noise = generator(derived_seed(seed, "noise", step), 0, 0)
        eps = torch.randn((16, *x_0.shape[1:]), generator=noise)[:4]
        bar = torch.from_numpy(alpha_bar[k.numpy() - 1])[:, None, None, None]
        x_t = (bar.sqrt() * x_0 + (1 - bar).sqrt() * eps).float()
        gradients = torch.autograd.grad(
            (eps - network(x_t, (k / T).float())).square().mean(), list(network.parameters())
        )
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        assert (norm > clip) == (clip < 1)
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient * min(1.0, clip / norm)
        warm, annealed = min(1.0, (step + 1) / 2), 0.5 + 0.5 * math.cos(math.pi * step / steps)
        optimizer.param_groups[0]["lr"] = rate * warm * annealed
        optimizer.step()

    by_hand = {name: value.detach() for name, value in network.named_parameters()}
    assert _largest_difference(_weights(trainer), by_hand) < 1e-6
    assert _largest_difference(_weights(trainer), start) > 5e-5


@pytest.mark.usefixtures("every_step")
def test_the_average_follows_the_weights(tiny: Callable[..., Config]) -> None:
    trainer = Trainer(tiny("training.ema_decay=0.6", "training.ema_gamma=1"), _images(), CPU)
    average: dict[str, Tensor] = {}
    for event in trainer:
        if isinstance(event, Progress):
            decay = min(0.6, (1 - 1 / event.step) ** 2)
            weights = _weights(trainer)
            average = {
                name: decay * average.get(name, torch.zeros(())) + (1 - decay) * value
                for name, value in weights.items()
            }
    assert _largest_difference(trainer.ema.parameters, average) < 1e-6
    sampled = {name: value.detach() for name, value in trainer.averaged().network.named_parameters()}
    assert _largest_difference(sampled, trainer.ema.parameters) == 0


def test_a_denoiser_with_the_averaged_weights_predicts_the_same_each_time(tiny: Callable[..., Config]) -> None:
    # In evaluation mode there is no dropout; in training mode two predictions differ.
    trainer = Trainer(tiny("model.dropout=0.5"), _images(), CPU)
    list(trainer)
    x, t = torch.ones(2, 1, 8, 8), trainer.denoiser.chain.levels[torch.tensor([3, 7])]
    averaged = trainer.averaged()
    assert torch.equal(averaged(x, t).x_0, averaged(x, t).x_0)
    assert not torch.equal(trainer.denoiser(x, t).x_0, trainer.denoiser(x, t).x_0)


def test_the_loss_of_four_images_learned_by_heart_falls(tiny: Callable[..., Config]) -> None:
    config = tiny(
        "model.dropout=0",
        "objective.target=x0",
        "training.steps=250",
        "training.learning_rate=5e-3",
        "training.warmup=0",
    )
    trainer = Trainer(config, _images(4), CPU)

    def loss() -> float:
        draws = generator(1, "test")
        data = Batches(_images(4), 400, seed=0, flip=False, device=CPU)(0)
        with torch.no_grad():
            return float(trainer.objective(trainer.denoiser, data, draws).mean())

    before = loss()
    list(trainer)
    # At first the prediction is zero, so the loss is the mean square of values spread over [-1, 1].
    assert before == pytest.approx(1 / 3, rel=0.1)
    assert loss() < 0.4 * before


# --- randomness


def test_two_runs_with_one_seed_are_the_same_to_the_bit(tiny: Callable[..., Config]) -> None:
    trainers = [Trainer(tiny("model.dropout=0.1", "data.flip=true"), _images(), CPU) for _ in range(2)]
    for i, trainer in enumerate(trainers):
        torch.manual_seed(i)  # the caller's own random numbers do not matter
        list(trainer)
    assert _largest_difference(_weights(trainers[0]), _weights(trainers[1])) == 0


def test_another_seed_is_another_run_from_the_first_weights_on(tiny: Callable[..., Config]) -> None:
    first, second = (Trainer(tiny(f"training.seed={seed}"), _images(), CPU) for seed in (0, 1))
    assert _largest_difference(_weights(first), _weights(second)) > 0.01


def test_training_leaves_the_random_numbers_of_its_caller_alone(tiny: Callable[..., Config]) -> None:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    expected = torch.rand(3), random.random(), np.random.rand(3)
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    list(Trainer(tiny("model.dropout=0.1", "data.flip=true"), _images(), CPU))
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    np.testing.assert_array_equal(np.random.rand(3), expected[2])


# --- events


@pytest.mark.usefixtures("every_step")
def test_progress_tells_the_step_the_fraction_and_the_learning_rate(tiny: Callable[..., Config]) -> None:
    *events, stopped = Trainer(tiny("training.steps=5"), _images(), CPU)
    assert stopped == Stopped(5, events[-1].seconds, finished=True)
    assert all(isinstance(event, Progress) for event in events)
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
    assert [event.fraction for event in events] == [0.2, 0.4, 0.6, 0.8, 1.0]
    rates = [1e-3 * min(1, (n + 1) / 2) * (1 + math.cos(math.pi * n / 5)) / 2 for n in range(5)]
    assert [event.learning_rate for event in events] == pytest.approx(rates)


def test_the_loss_of_a_report_is_the_mean_over_its_steps(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[float, list[float]] = {}
    for seconds in (0.0, math.inf):
        monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", seconds)
        events = list(Trainer(tiny(), _images(), CPU))
        losses[seconds] = [event.loss for event in events if isinstance(event, Progress)]
    assert len(losses[0.0]) == 8
    assert losses[math.inf] == pytest.approx([sum(losses[0.0]) / 8])


def test_stop_ends_after_the_step_it_is_in(tiny: Callable[..., Config], every_step: None) -> None:
    trainer = Trainer(tiny(), _images(), CPU)
    events = []
    for event in trainer:
        events.append(event)
        if event.step == 3:
            trainer.stop()
    assert events[-1] == Stopped(3, trainer.seconds, finished=False)
    assert trainer.step == 3
    assert trainer.images_seen == 12


# --- what is refused


def test_a_last_step_whose_gradient_is_no_number_is_not_saved(tiny: Callable[..., Config], tmp_path: Path) -> None:
    # The loss of that step is finite: what is not a number are the weights after it.
    config = tiny("training.steps=1")
    trainer = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    next(trainer.denoiser.network.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(ClearwaterError):
        list(trainer)
    assert RunFolder.open(tmp_path).latest() is None


def test_a_learning_rate_that_explodes_is_refused_with_what_to_try(tiny: Callable[..., Config]) -> None:
    with pytest.raises(ClearwaterError, match=r"nothing was saved.*learning_rate"):
        list(Trainer(tiny("training.learning_rate=1e30", "training.warmup=0"), _images(), CPU))
