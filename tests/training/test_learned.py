"""Training beyond a squared error: every named objective, a learned range, a learned chain, importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from clearwater.assembly import build_objective
from clearwater.config import Config
from clearwater.data import Batches, ImageSet
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.learned_chain import LearnedChain
from clearwater.objectives import SquaredError, VarianceBound
from clearwater.randomness import RowStreams, derived_seed, generator
from clearwater.settings import OBJECTIVES
from clearwater.targets import Prediction
from clearwater.times import LossAware
from clearwater.training import Checkpoint, Progress, RunFolder, Trainer, load_denoiser
from clearwater.training import trainer as trainer_module
from clearwater.variances import FixedSmall, LearnedRange
from clearwater.weights import MinSNR

CPU = torch.device("cpu")
STEPS = 14
# Two levels: the importance sampler has seen each ten times after a few steps, and from then on its levels, and with
# them the weights, depend on every loss that it remembers.
KINDS = {
    "importance": ("objective=simple", "objective.times=importance", "chain.levels=2"),
    "learned chain": ("objective=vlb", "objective.times=low_discrepancy", "chain.name=learned", "chain.levels=5"),
    "learned chain by importance": ("objective=vlb", "chain.name=learned", "chain.levels=2", "objective.target=v"),
    "hybrid": ("objective=hybrid",),
}
_SETS = ("model.dropout=0.1", "data.flip=true", f"training.steps={STEPS}")


def _images() -> ImageSet:
    return ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)))


def _trainer(config: Config, folder: Path) -> Trainer:
    return Trainer(config, _images(), CPU, RunFolder.create(folder, config))


def _latest(folder: Path) -> Checkpoint:
    checkpoint = RunFolder.open(folder).latest()
    assert checkpoint is not None
    return checkpoint


def _different(ours: Checkpoint, theirs: Checkpoint) -> list[str]:
    """The tensors of two checkpoints that differ in any bit."""
    found = []
    for kind in ("network", "averaged", "optimizer", "times"):
        left, right = getattr(ours, kind), getattr(theirs, kind)
        assert left.keys() == right.keys()
        found += [f"{kind}/{name}" for name, value in left.items() if not torch.equal(value, right[name])]
    return found


def _stopped_and_gone_on(config: Config, folder: Path, stops: tuple[int, ...]) -> Checkpoint:
    with patch.object(trainer_module, "_REPORT_SECONDS", 0.0):
        for stop in stops:
            trainer = _trainer(config, folder)
            for event in trainer:
                if isinstance(event, Progress) and event.step == stop:
                    trainer.stop()
        list(_trainer(config, folder))
    return _latest(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_training_ends_as_if_unbroken_to_the_bit(
    tiny: Callable[..., Config], tmp_path: Path, kind: str
) -> None:
    config = tiny(*_SETS, *KINDS[kind])
    list(_trainer(config, tmp_path / "whole"))
    whole = _latest(tmp_path / "whole")
    broken = _stopped_and_gone_on(config, tmp_path / "broken", (3, 11))
    assert broken.place.step == STEPS
    assert _different(broken, whole) == []
    assert ("chain.start" in whole.network) == ("learned chain" in kind)
    assert sorted(whole.times) == (["recent", "seen"] if "importance" in kind else [])


def test_a_checkpoint_keeps_what_importance_sampling_has_seen(tiny: Callable[..., Config], tmp_path: Path) -> None:
    """Ten losses of each level, the last ones: the levels that were drawn are a function of the run alone."""
    config = tiny(*_SETS, *KINDS["importance"])
    seen: list[tuple[int, float]] = []
    observe = LossAware.observe

    def spy(self: LossAware, k: Tensor, loss: Tensor) -> None:
        seen.extend(zip(k.tolist(), loss.detach().double().tolist(), strict=True))
        observe(self, k, loss)

    with patch.object(LossAware, "observe", spy):
        list(_trainer(config, tmp_path))
    times = _latest(tmp_path).times
    for level in (1, 2):
        losses = [loss for k, loss in seen if k == level]
        assert len(losses) > 10
        assert int(times["seen"][level - 1]) == len(losses)
        assert sorted(times["recent"][level - 1].tolist()) == sorted(losses[-10:])
    restored = LossAware(2)
    restored.load(times)
    assert restored.probabilities.tolist() != [0.5, 0.5]


def test_without_what_it_has_seen_importance_sampling_would_go_on_otherwise(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """That the exact resumption above can fail: the memory is part of the state."""
    config = tiny(*_SETS, *KINDS["importance"])
    list(_trainer(config, tmp_path / "whole"))
    with patch.object(LossAware, "load", lambda self, state: None):
        broken = _stopped_and_gone_on(config, tmp_path / "broken", (11,))
    assert any(name.startswith("network/") for name in _different(broken, _latest(tmp_path / "whole")))


# --- the learned chain


def _of_chain(tensors: dict[str, Tensor], T: int) -> LearnedChain:
    learned = LearnedChain(T)
    names = [name for name in tensors if name.startswith("chain.")]
    learned.load_state_dict({name.removeprefix("chain."): tensors[name] for name in names})
    return learned


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_the_model_of_a_run_with_a_learned_chain_is_on_the_chain_of_its_weights(
    tiny: Callable[..., Config], tmp_path: Path, weights: str
) -> None:
    config = tiny(*_SETS, *KINDS["learned chain"])
    list(_trainer(config, tmp_path))
    saved = _latest(tmp_path)
    tensors = saved.averaged if weights == "ema" else saved.network
    loaded = load_denoiser(tmp_path, "cpu", weights=weights)  # type: ignore[arg-type]
    expected = _of_chain(tensors, 5).chain().levels
    assert torch.equal(loaded.chain.levels.alpha, expected.alpha.detach())
    assert torch.equal(loaded.chain.levels.time, expected.time)
    assert not loaded.chain.levels.alpha.requires_grad
    of_network = dict(loaded.network.named_parameters())
    assert {*of_network} == {name for name in tensors if not name.startswith("chain.")}
    assert all(torch.equal(value, tensors[name]) for name, value in of_network.items())


def test_the_averaged_chain_is_neither_the_last_nor_the_first(tiny: Callable[..., Config]) -> None:
    trainer = Trainer(tiny(*_SETS, *KINDS["learned chain"]), _images(), CPU)
    list(trainer)
    ours = trainer.averaged().chain.levels
    assert torch.equal(ours.alpha, _of_chain(trainer.ema.parameters, 5).chain().levels.alpha.detach())
    first, last = LearnedChain(5).chain().levels, trainer.denoiser.chain.levels
    for other in (first, last):
        assert bool((ours.log_snr[1:] != other.log_snr[1:]).any())
    # Between them, too: each end went one way.
    for k in (1, 5):
        low, high = sorted((float(first.log_snr[k].detach()), float(last.log_snr[k].detach())))
        assert low < float(ours.log_snr[k]) < high


def test_a_step_with_a_learned_chain_is_one_of_adam_on_network_and_chain_together(tiny: Callable[..., Config]) -> None:
    """By hand, from the same weights; the gradient's norm is that of all of them."""
    config = tiny(*KINDS["learned chain"], "training.steps=3", "model.dropout=0", "training.clip=0.5")
    trainer = Trainer(config, _images(), CPU)
    twin = Trainer(config, _images(), CPU)
    network, learned = twin.denoiser.network, LearnedChain(5)
    list(trainer)

    batches = Batches(_images(), 4, seed=derived_seed(0, "data"), flip=False, device=CPU)
    parameters = [*network.parameters(), *learned.parameters()]
    optimizer = torch.optim.Adam(parameters, foreach=False, fused=False)
    objective = build_objective(config)
    for step in range(3):
        denoiser = replace(twin.denoiser, chain=learned.chain())
        k, weight = objective.times(4, 5, generator(0, "objective", step))
        noise = RowStreams(derived_seed(0, "noise", step), range(4))
        loss = (weight * objective.at(denoiser, batches(step), k, noise)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None))
        assert norm > 0.5
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad *= 0.5 / norm
        warm, annealed = min(1.0, (step + 1) / 2), 0.5 + 0.5 * math.cos(math.pi * step / 3)
        optimizer.param_groups[0]["lr"] = 1e-3 * warm * annealed
        optimizer.step()
    saved = trainer._parameters
    by_hand = {**dict(network.named_parameters()), **{f"chain.{n}": p for n, p in learned.named_parameters()}}
    assert saved.keys() == by_hand.keys()
    for name, parameter in by_hand.items():
        torch.testing.assert_close(saved[name].detach(), parameter.detach(), rtol=0, atol=1e-5)
    assert abs(float(learned.start.detach()) + 13.3) > 1e-3


def test_weights_that_lack_the_chain_are_refused_in_one_sentence(tiny: Callable[..., Config], tmp_path: Path) -> None:
    """The configuration was changed to a learned chain after training on another."""
    list(_trainer(tiny("objective=vlb", "chain.levels=5"), tmp_path))
    text = (tmp_path / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace('name = "cosine"', 'name = "learned"'))
    with pytest.raises(InputError, match="do not fit its config"):
        load_denoiser(tmp_path, "cpu")


# --- objectives


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_named_objective_trains_all_that_the_network_says(tiny: Callable[..., Config], name: str) -> None:
    """Each channel of the last convolution, also of a variance; and through it, which begins at zero, the rest."""
    trainer = Trainer(tiny(f"objective={name}", "training.steps=4", "training.warmup=0"), _images(), CPU)
    before = {key: value.detach().clone() for key, value in trainer.denoiser.network.named_parameters()}
    assert bool((before["last.weight"] == 0).all())
    list(trainer)
    after = {key: value.detach() for key, value in trainer.denoiser.network.named_parameters()}
    of_channels = after["last.weight"].flatten(1).abs().amax(1)
    assert len(of_channels) == (32 if "variance" in OBJECTIVES[name].get("chain", {}) else 16)  # patches of 4 × 4
    assert bool((of_channels > 1e-5).all())
    assert [key for key, value in before.items() if torch.equal(value, after[key])] == []


def test_the_objective_that_is_given_is_trained_in_place_of_the_configuration_s(tiny: Callable[..., Config]) -> None:
    plain = tiny("objective=simple", "training.steps=3")
    given = SquaredError(MinSNR(2.0), LossAware(10))
    named = tiny("objective=simple", "objective.weight=min_snr", "objective.gamma=2", "training.steps=3")
    ours, theirs, other = (
        Trainer(plain, _images(), CPU, objective=given),
        Trainer(named, _images(), CPU, objective=SquaredError(MinSNR(2.0), LossAware(10))),
        Trainer(plain, _images(), CPU),
    )
    for trainer in (ours, theirs, other):
        list(trainer)
    weights, expected, unlike = (dict(trainer.denoiser.network.named_parameters()) for trainer in (ours, theirs, other))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert any(not torch.equal(weights[name], unlike[name]) for name in unlike)
    assert int(given.times.state()["seen"].sum()) == 3 * 4


def test_an_objective_that_is_given_may_be_one_that_no_setting_makes(tiny: Callable[..., Config]) -> None:
    class Grey(Denoiser):
        """x̂_0 = 0, whatever the image."""

        chain, variance = Trainer(tiny(), _images(), CPU).denoiser.chain, FixedSmall()

        def __call__(self, x_t: Tensor, t: object) -> Prediction:
            return Prediction(torch.zeros_like(x_t), x_t)

    config = tiny("objective.loss=variance", "chain.variance=fixed_small", "training.steps=60", "training.warmup=0")
    with pytest.raises(InputError, match="clearwater variance"):
        Trainer(config, _images(), CPU)
    trainer = Trainer(config, _images(), CPU, objective=VarianceBound(Grey()))
    list(trainer)
    # Uniform grey values have the variance 1/3, and an error of zero noise knows no better: with SNR r at the level,
    # the ratio to the error under unit normal data is (1 + r) / 3, far above 1 at the first levels.
    levels = trainer.denoiser.chain.levels[1:3]
    x_t = levels.noise((_images().images[:2].float() / 127.5 - 1), torch.zeros(2, 1, 8, 8))
    with torch.no_grad():
        said = trainer.denoiser.output(x_t, levels).mean()
    assert float(said) > 0.05


# --- with a variance of its own, the reverse step of a trained run


def test_a_hybrid_run_is_loaded_with_its_range(tiny: Callable[..., Config], tmp_path: Path) -> None:
    list(_trainer(tiny("objective=hybrid"), tmp_path))
    own, small = load_denoiser(tmp_path, "cpu"), load_denoiser(tmp_path, "cpu", variance="fixed_small")
    assert isinstance(own.variance, LearnedRange)
    x_t, pair = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), own.chain.pair(6)
    said = own.output(x_t, pair.t)[:, 1:]
    v = (said.double() + 1) / 2
    expected = torch.exp(v * pair.transition_variance.log() + (1 - v) * pair.posterior_variance.log())
    assert float(said.std()) > 0
    reverse = own.reverse(x_t, pair)
    torch.testing.assert_close(reverse.variance.double(), expected, rtol=1e-5, atol=0)
    assert torch.equal(reverse.mean, small.reverse(x_t, pair).mean)
    fixed = small.reverse(x_t, pair).variance
    assert float(fixed) == pytest.approx(float(pair.posterior_variance), rel=1e-6)
