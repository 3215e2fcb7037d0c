"""From settings to objects: the objectives that have a name, targets, weights, times, chains, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from clearwater.assembly import (
    build_chain,
    build_denoiser,
    build_learned_chain,
    build_objective,
    build_target,
    build_times,
)
from clearwater.chains import Chain, cosine, linear
from clearwater.config import ChainConfig, Config, ObjectiveConfig
from clearwater.couplings import Coupling, Independent, OptimalTransport, Sinkhorn
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.learned_chain import LearnedChain
from clearwater.networks import UNet
from clearwater.objectives import VLB, Euclidean, Hybrid, Objective, SquaredError
from clearwater.randomness import Randomness
from clearwater.schedules import RectifiedFlow
from clearwater.settings import OBJECTIVES, resolve
from clearwater.targets import X0, Eps, Mean, PathVelocity, Score, Target, V, Velocity
from clearwater.times import LogitNormal, LogNormal, LossAware, LowDiscrepancy, Mode, Shifted, TimeSampler, Uniform
from clearwater.variances import FixedLarge, LearnedRange, Variance
from clearwater.weights import P2, BoundWeight, EDMWeight, MinSNR, SigmoidWeight, Unweighted, Weight

_LEVELS = cosine(10)
_NAMED: dict[str, tuple[Target, Objective, Variance]] = {
    "mu": (Mean(_LEVELS), SquaredError(BoundWeight(_LEVELS, FixedLarge())), FixedLarge()),
    "x0": (X0(), SquaredError(BoundWeight(_LEVELS, FixedLarge())), FixedLarge()),
    "eps": (Eps(), SquaredError(BoundWeight(_LEVELS, FixedLarge())), FixedLarge()),
    "simple": (Eps(), SquaredError(), FixedLarge()),
    "v": (V(), SquaredError(), FixedLarge()),
    "vlb": (Eps(), VLB(LossAware(10)), LearnedRange()),
    "hybrid": (Eps(), Hybrid(Unweighted(), 0.001), LearnedRange()),
    "euclidean": (Mean(_LEVELS), Euclidean(FixedLarge()), FixedLarge()),
    "min_snr": (X0(), SquaredError(MinSNR(5.0)), FixedLarge()),
    "edm": (V(), SquaredError(EDMWeight(0.5), LogNormal(_LEVELS, -1.2, 1.2)), FixedLarge()),
    "p2": (Eps(), SquaredError(P2(1.0, 1.0)), FixedLarge()),
    "sigmoid": (V(), SquaredError(SigmoidWeight(2.0, _LEVELS)), FixedLarge()),
    "flow": (Velocity(), SquaredError(), FixedLarge()),
}
_FLOW = Chain.from_schedule(RectifiedFlow(), 10)


def test_every_named_objective_is_among_those_that_are_known_here() -> None:
    assert OBJECTIVES.keys() == _NAMED.keys()


def _random(denoiser: NetworkDenoiser) -> nn.Module:
    torch.manual_seed(1)
    for parameter in denoiser.network.parameters():  # also those that begin at zero
        nn.init.normal_(parameter, std=0.1)
    return denoiser.network.eval()


def _loss(objective: Objective, denoiser: NetworkDenoiser) -> torch.Tensor:
    rng = torch.Generator().manual_seed(4)
    x_0 = torch.randint(0, 256, (16, 1, 8, 8), generator=rng) / 127.5 - 1
    return objective(denoiser, x_0, rng).detach()


@pytest.mark.parametrize("name", _NAMED)
def test_a_named_objective_is_the_one_made_by_hand(tiny: Callable[..., Config], name: str) -> None:
    config = tiny(f"objective={name}")
    denoiser = build_denoiser(config, torch.device("cpu"))
    network = _random(denoiser)
    target, objective, rule = _NAMED[name]
    by_hand = NetworkDenoiser(network, _FLOW if name == "flow" else _LEVELS, target, rule)
    assert torch.equal(_loss(build_objective(config), denoiser), _loss(objective, by_hand))


def test_no_two_named_objectives_are_the_same(tiny: Callable[..., Config]) -> None:
    losses = set()
    for name in OBJECTIVES:
        config = tiny(f"objective={name}")
        denoiser = build_denoiser(config, torch.device("cpu"))
        _random(denoiser)
        losses.add(tuple(_loss(build_objective(config), denoiser).tolist()))
    assert len(losses) == len(OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eps", Eps()),
        ("x0", X0()),
        ("v", V()),
        ("velocity", Velocity()),
        ("score", Score()),
        ("mean", Mean(_FLOW)),
        ("path_velocity", PathVelocity(RectifiedFlow())),
        ("path_velocity", Velocity()),
    ],
)
def test_a_target_is_built_by_its_name(name: str, expected: Target) -> None:
    built = build_target(ObjectiveConfig(target=name), _FLOW)  # type: ignore[arg-type]
    ours, theirs = built.row(_FLOW.levels[1:]), expected.row(_FLOW.levels[1:])
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((), Unweighted()),
        (("weight=bound",), BoundWeight(_LEVELS, FixedLarge())),
        (("weight=min_snr", "gamma=2"), MinSNR(2.0)),
        (("weight=edm", "sigma_data=0.3"), EDMWeight(0.3)),
        (("weight=p2", "p2_gamma=0.7", "p2_k=2"), P2(0.7, 2.0)),
        (("weight=sigmoid", "bias=-1"), SigmoidWeight(-1.0, _LEVELS)),
    ],
)
def test_a_weight_is_built_with_its_settings(
    tiny: Callable[..., Config], sets: tuple[str, ...], expected: Weight
) -> None:
    config = tiny("objective=simple", *(f"objective.{one}" for one in sets))
    built = build_objective(config)
    assert isinstance(built, SquaredError)
    weights = [built.weight]
    if "weight=bound" not in sets:  # which needs a fixed variance
        hybrid = build_objective(_with_range(config))
        assert isinstance(hybrid, Hybrid)
        weights.append(hybrid.weight)
    for weight in weights:
        assert torch.equal(weight(Eps(), _LEVELS.levels[1:]), expected(Eps(), _LEVELS.levels[1:]))


@pytest.mark.parametrize("share", [0.001, 0.25])
def test_the_share_of_a_hybrid_is_as_it_was_set(tiny: Callable[..., Config], share: float) -> None:
    built = build_objective(tiny("objective=hybrid", f"objective.share={share}"))
    assert isinstance(built, Hybrid)
    assert built.share == share


def _with_range(config: Config) -> Config:
    return config.model_copy(
        update={
            "objective": config.objective.model_copy(update={"loss": "hybrid"}),
            "chain": config.chain.model_copy(update={"variance": "learned_range"}),
        }
    )


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (("times=uniform",), Uniform()),
        (("times=low_discrepancy",), LowDiscrepancy()),
        (("times=importance",), LossAware(10)),
        (("times=logit_normal", "logit_mean=-0.8", "logit_std=0.3"), LogitNormal(-0.8, 0.3)),
        (("times=mode", "mode_scale=0.7"), Mode(0.7)),
        (("times=log_normal", "log_mean=-0.4", "log_std=0.9"), LogNormal(_LEVELS, -0.4, 0.9)),
        (("times=uniform", "shift=2.5"), Shifted(Uniform(), _LEVELS, 2.5)),
        (("times=mode", "shift=0.5"), Shifted(Mode(1.29), _LEVELS, 0.5)),
    ],
)
@pytest.mark.parametrize("preset", ["simple", "hybrid", "vlb", "euclidean"])
def test_every_objective_draws_levels_as_it_is_told(
    tiny: Callable[..., Config], preset: str, sets: tuple[str, ...], expected: TimeSampler
) -> None:
    config = tiny(f"objective={preset}", *(f"objective.{one}" for one in sets))
    for built in (build_objective(config).times, build_times(config.objective, _LEVELS)):
        assert type(built) is type(expected)
        drawn, expected_draw = (times(50, 10, torch.Generator().manual_seed(2))[0] for times in (built, expected))
        assert torch.equal(drawn, expected_draw)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((), Independent()),
        (("coupling=optimal",), OptimalTransport()),
        (("coupling=sinkhorn", "sinkhorn=0.3"), Sinkhorn(0.3)),
        (("coupling=reflow",), Independent()),  # the noise is the image's own, whoever draws it
    ],
)
def test_noise_is_chosen_for_images_as_it_is_told(
    tiny: Callable[..., Config], sets: tuple[str, ...], expected: Coupling
) -> None:
    built = build_objective(tiny("data.flip=false", *(f"objective.{one}" for one in sets)))
    assert isinstance(built, SquaredError)
    assert (type(built.coupling), vars(built.coupling)) == (type(expected), vars(expected))


def test_the_coupling_is_told_the_classes_of_the_images() -> None:
    class Spy(Independent):
        def __call__(
            self, x_0: torch.Tensor, eps: torch.Tensor, labels: torch.Tensor | None, source: Randomness
        ) -> torch.Tensor:
            told.append(labels)
            return eps

    told: list[torch.Tensor | None] = []
    labels = torch.tensor([2, 0, 1])
    network = UNet(1, 8, (1,), 1, (), dropout=0.0, classes=3)
    denoiser = NetworkDenoiser(network, _FLOW, Velocity(), FixedLarge())
    for given in (None, labels):
        objective = SquaredError(coupling=Spy())
        objective(replace(denoiser, labels=given), torch.zeros(3, 1, 8, 8), torch.Generator().manual_seed(0))
    assert told == [None, labels]


def test_the_recipe_flow_is_a_rectified_flow_with_times_in_the_middle() -> None:
    config, other = resolve(recipe="flow"), resolve(recipe="small-grey")
    objective = build_objective(config)
    assert isinstance(objective, SquaredError)
    assert isinstance(objective.weight, Unweighted)
    assert objective.times == LogitNormal(0.0, 1.0)
    assert isinstance(build_target(config.objective, build_chain(config.chain)), Velocity)
    assert build_chain(config.chain).schedule == RectifiedFlow()
    assert (config.model, config.training, config.data) == (other.model, other.training, other.data)


@pytest.mark.parametrize(("variance", "channels"), [("fixed_small", 3), ("fixed_large", 3), ("learned_range", 6)])
def test_a_learned_range_has_twice_the_channels(tiny: Callable[..., Config], variance: str, channels: int) -> None:
    denoiser = build_denoiser(tiny("data.channels=3", f"chain.variance={variance}"), torch.device("cpu"))
    x_t, pair = torch.zeros(2, 3, 8, 8), denoiser.chain.pair(4)
    assert denoiser.output(x_t, pair.t).shape == (2, channels, 8, 8)
    beta, tilde = float(pair.transition_variance), float(pair.posterior_variance)
    # A network that begins at zero begins in the middle of the range.
    expected = {"fixed_small": tilde, "fixed_large": beta, "learned_range": (beta * tilde) ** 0.5}[variance]
    found = denoiser.reverse(x_t, pair).variance.detach()
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-6, atol=0)


def test_a_learned_chain_is_built_as_training_begins_or_as_it_is() -> None:
    config = ChainConfig(name="learned", levels=12)
    begun, learned = build_chain(config), LearnedChain(12)
    torch.testing.assert_close(begun.levels.alpha, learned.chain().levels.alpha.detach(), rtol=0, atol=0)
    with torch.no_grad():
        learned.start += 2
    now = build_chain(config, learned)
    torch.testing.assert_close(now.levels.log_snr[1:], begun.levels.log_snr[1:] - 2, rtol=1e-6, atol=0)
    for levels in (begun.levels, now.levels):
        assert not levels.alpha.requires_grad


def test_a_chain_that_is_fixed_has_nothing_to_learn() -> None:
    assert build_learned_chain(ChainConfig(name="linear", levels=100)) is None
    assert torch.equal(build_chain(ChainConfig(levels=100)).levels.alpha, linear(100).levels.alpha)


# settings that contradict each other, what the sentence says, and settings after it that mend them as it says
_CONTRADICTIONS = [
    (["chain.variance=learned_range"], "does not train a learned range", ["objective=hybrid"]),
    (["chain.variance=learned_range"], "does not train a learned range", ["objective=vlb"]),
    (["chain.variance=learned_range"], "does not train a learned range", ["chain.variance=fixed_small"]),
    (
        ["objective=eps", "chain.variance=learned_range"],
        "does not train a learned range",
        ["chain.variance=fixed_small"],
    ),
    (
        ["objective=euclidean", "chain.variance=learned_range"],
        "euclidean does not train a learned range",
        ["chain.variance=fixed_small"],
    ),
    (["objective.loss=hybrid"], "hybrid is for a learned variance", ["chain.variance=learned_range"]),
    (
        ["objective.loss=hybrid", "chain.variance=fixed_large"],
        "chain.variance is fixed_large",
        ["objective.loss=squared"],
    ),
    (["chain.name=learned"], "trained through the bound", ["objective.loss=vlb"]),
    (["chain.name=learned"], "trained through the bound", ["chain.name=cosine"]),
    (["objective=hybrid", "chain.name=learned"], "objective.loss is hybrid", ["objective.loss=vlb"]),
    (["objective=euclidean", "chain.name=learned"], "objective.loss is euclidean", ["chain.name=cosine"]),
    (["objective=vlb", "chain.name=learned", "objective.target=mean"], "one is learned", ["objective.target=v"]),
    (["objective.loss=variance"], "clearwater variance RUN", ["objective.loss=squared"]),
    (["chain.name=flow"], "The chain flow ends in pure noise, in which objective.target = eps", ["objective.target=v"]),
    (["objective.target=path_velocity"], "the chain is none", ["chain.name=vp"]),
    (["objective.target=path_velocity"], "the chain is none", ["chain.name=flow"]),
    (["objective.target=path_velocity"], "the chain is none", ["objective.target=v"]),
]


def _built(config: Config) -> None:
    build_objective(config)
    build_denoiser(config, torch.device("meta"))


@pytest.mark.parametrize(
    ("sets", "said", "mended"),
    _CONTRADICTIONS,
    ids=[f"{' '.join(sets)} -> {mend[0]}" for sets, _, mend in _CONTRADICTIONS],
)
def test_settings_that_contradict_each_other_are_refused_with_advice_that_helps(
    tiny: Callable[..., Config], sets: list[str], said: str, mended: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        _built(tiny("objective=simple", *sets))
    message = str(caught.value)
    assert said in message
    assert message.endswith(".")
    assert len(message.splitlines()) == 1
    _built(tiny("objective=simple", *sets, *mended))


def test_the_channels_of_the_data_must_be_known(tiny: Callable[..., Config]) -> None:
    config = tiny()
    unknown = config.model_copy(update={"data": config.data.model_copy(update={"channels": None})})
    with pytest.raises(InputError, match=r"data\.channels"):
        build_denoiser(unknown, torch.device("cpu"))
