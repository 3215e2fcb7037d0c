"""What all steps have in common: they are pure, remember little, and draw noise only if their sampler is random."""

import pytest
import torch
from stand_ins import Counted

from clearwater.analytic import ExactDenoiser, GaussianMixture
from clearwater.chains import Chain, linear
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.sampling import (
    DDIM,
    SAMPLERS,
    AdaptiveODE,
    DPMSolver,
    Euler,
    Heun,
    RungeKutta,
    SamplerOptions,
    UniPC,
    sampler,
    sampling_states,
)
from clearwater.sampling.steps import LinearStep
from clearwater.schedules import RectifiedFlow
from clearwater.targets import Prediction, prediction_from_x_0
from clearwater.variances import FixedSmall

CHAINS = {"vp": linear(1000).strided(20), "flow": Chain.from_schedule(RectifiedFlow(), 20)}
DATA = GaussianMixture(
    *(torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.05, 0.1]))
)
# How many tensors of the size of x the longest memory holds.
REMEMBERED = {"dpm++2m": 1, "dpm++3m": 2, "dpm++2m-sde": 1, "unipc": 3, "unipc-bh1": 3, "unipc3": 4}


class Noise:
    def __init__(self):
        self.generator, self.draws = torch.Generator().manual_seed(3), 0

    def __call__(self):
        self.draws += 1
        return torch.randn(4, 2, generator=self.generator, dtype=torch.float64)


def named(name):
    return SAMPLERS[name].make(SamplerOptions())


def plan(stepper, chain):
    return stepper.plan(chain.levels[torch.arange(chain.T, -1, -1)], chain.at_log_snr)


def taken(steps, denoiser, x):
    """x, the memory and the noise before each step, and what came of it."""
    noise, memory, made = Noise(), (), []
    for step in steps:
        before = noise.generator.get_state()
        following, prediction, remembered = step(denoiser, x, memory, noise)
        made.append((step, x, memory, before, following, prediction, remembered))
        x, memory = following, remembered
    return made


of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
of_name = pytest.mark.parametrize("name", SAMPLERS)


def first(chain):
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@of_chain
@of_name
def test_a_step_gives_the_same_from_the_same_and_changes_none_of_it(chain, name):
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    # Taken again in the opposite order, so that nothing can be left over from the step before.
    for step, x, memory, state, following, prediction, remembered in reversed(
        taken(plan(named(name), chain), denoiser, first(chain))
    ):
        given = [x.clone(), *(tensor.clone() for tensor in memory)]
        noise = Noise()
        noise.generator.set_state(state)
        again = step(denoiser, x, memory, noise)
        assert all(torch.equal(a, b) for a, b in zip((x, *memory), given, strict=True))
        assert torch.equal(again[0], following)
        assert torch.equal(again[1].x_0, prediction.x_0)
        assert all(torch.equal(a, b) for a, b in zip(again[2], remembered, strict=True))


@of_chain
@of_name
def test_a_plan_can_be_used_twice_and_planning_twice_is_the_same(chain, name):
    denoiser, stepper = ExactDenoiser(DATA, chain, FixedSmall()), named(name)
    steps = plan(stepper, chain)
    ends = [taken(of, denoiser, first(chain))[-1][4] for of in (steps, steps, plan(stepper, chain))]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


@of_chain
@of_name
def test_a_step_remembers_no_more_than_its_method_needs(chain, name):
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    lengths = [len(made[-1]) for made in taken(plan(named(name), chain), denoiser, first(chain))]
    assert max(lengths) == REMEMBERED.get(name, 0)


@of_chain
@of_name
def test_noise_is_drawn_by_the_samplers_that_say_so_and_by_no_other(chain, name):
    noise = Noise()
    *_, state = sampling_states(ExactDenoiser(DATA, chain, FixedSmall()), noise, chain, named(name), first(chain))
    assert state.k == 0
    # Once a step but the last, which gives the prediction.
    assert noise.draws == (chain.T - 1 if SAMPLERS[name].stochastic else 0)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "adaptive"])
def test_a_sampler_takes_the_evaluations_that_the_list_says(name):
    """The step to data from the chain's first level takes one."""
    chain = CHAINS["vp"]
    counted = Counted(ExactDenoiser(DATA, chain, FixedSmall()))
    list(sampling_states(counted, Noise(), chain, named(name), first(chain)))
    each = int(SAMPLERS[name].evaluations)
    assert counted.calls == each * chain.T - (each - 1)


class Told(Denoiser):
    """Says what it is told to."""

    def __init__(self, chain, x_0):
        self.chain, self.variance, self.x_0 = chain, FixedSmall(), x_0

    def __call__(self, x_t, t):
        return prediction_from_x_0(self.x_0, x_t, t)


def test_a_linear_step_is_the_sum_that_it_is_made_of():
    chain = CHAINS["vp"]
    m, x, z, *older = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = LinearStep(chain.levels[5], 0.7, (0.5, -0.3, 0.2), 0.4, remembered=2)
    x_s, prediction, memory = step(Told(chain, m), x, tuple(older), lambda: z)
    torch.testing.assert_close(x_s, 0.7 * x + 0.5 * m - 0.3 * older[0] + 0.2 * older[1] + 0.4 * z)
    assert isinstance(prediction, Prediction)
    assert [id(tensor) for tensor in memory] == [id(prediction.x_0), id(older[0])]


def test_on_a_short_path_multistep_methods_end_at_lower_orders():
    """Of fewer than 15 steps the last is of first order, the one before of at most second (Lu et al. 2022, app. B)."""
    for K, orders in ((14, [1, 2, *[3] * 10, 2, 1]), (15, [1, 2, *[3] * 12, 1]), (2, [1, 1]), (3, [1, 2, 1])):
        chain = linear(1000).strided(K)
        assert [len(step.data) for step in plan(DPMSolver(3), chain)] == orders
    flow = Chain.from_schedule(RectifiedFlow(), 20)
    # A prediction without signal is not extrapolated from: the second step is of first order as well.
    assert [len(step.data) for step in plan(DPMSolver(3), flow)] == [1, 1, 2, *[3] * 16, 1]


@pytest.mark.parametrize(
    ("name", "options", "stepper"),
    [
        ("ddim", SamplerOptions(eta=0.4), DDIM(0.4)),
        ("ddim", SamplerOptions(), DDIM(0.0)),
        ("euler", SamplerOptions(churn=3.0), Euler(3.0)),
        ("heun", SamplerOptions(churn=3.0), Heun(3.0)),
        ("midpoint", None, RungeKutta(2)),
        ("rk4", None, RungeKutta(4)),
        ("adaptive", SamplerOptions(tolerance=1e-7), AdaptiveODE(1e-7)),
        ("dpm++3m", None, DPMSolver(3)),
        ("unipc-bh1", None, UniPC(2, "bh1")),
    ],
)
def test_a_name_and_options_make_the_stepper(name, options, stepper):
    assert sampler(name, options) == stepper


def test_a_sampler_that_does_not_exist_and_an_option_that_it_has_not_are_refused():
    with pytest.raises(InputError, match=r"no sampler named 'plms'.*ancestral, ddim"):
        sampler("plms")
    with pytest.raises(InputError, match=r"unipc has no eta: it is an option of ddim\."):
        sampler("unipc", SamplerOptions(eta=0.5))
    with pytest.raises(InputError, match=r"ddim has no churn: it is an option of euler, heun\."):
        sampler("ddim", SamplerOptions(churn=0.0))
    with pytest.raises(InputError, match=r"eta goes from 0"):
        sampler("ddim", SamplerOptions(eta=2.0))


def test_runge_kutta_on_a_flow_is_the_usual_method_for_its_velocity():
    """x_s = x_t + h/6 (v_1 + 2 v_2 + 2 v_3 + v_4), the slopes of eps - x_0 at the usual places; and the midpoint's."""
    chain = Chain.from_schedule(RectifiedFlow(), 1000)
    data = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([0.4, 0.6], [[-0.5], [0.4]], [0.1, 0.2])))
    denoiser = ExactDenoiser(data, chain, FixedSmall())

    def velocity(x, t):
        found = denoiser(x, chain.schedule(torch.tensor(t, dtype=torch.float64)))
        return found.eps - found.x_0

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for t, s in ((0.8, 0.3), (1.0, 0.5), (0.4, 0.1)):
        path, h = chain.levels[torch.tensor([round(1000 * t), round(1000 * s)])], s - t
        v_1 = velocity(x, t)
        v_2 = velocity(x + h / 2 * v_1, t + h / 2)
        v_3 = velocity(x + h / 2 * v_2, t + h / 2)
        v_4 = velocity(x + h * v_3, s)
        for stepper, expected in (
            (RungeKutta(4), x + h / 6 * (v_1 + 2 * v_2 + 2 * v_3 + v_4)),
            (RungeKutta(2), x + h * v_2),
        ):
            (step,) = stepper.plan(path, chain.at_log_snr)
            torch.testing.assert_close(step(denoiser, x, (), None)[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [2, 4])
def test_runge_kutta_asks_for_no_level_that_the_network_does_not_know(order):
    for chain in (Chain.from_schedule(RectifiedFlow(), 10), linear(1000).strided(10)):
        counted = Counted(ExactDenoiser(DATA, chain, FixedSmall()))
        x = torch.randn(2, 1, dtype=torch.float64)
        for step in RungeKutta(order).plan(chain.levels[torch.arange(10, -1, -1)], chain.at_log_snr):
            x, _, _ = step(counted, x, (), None)
        # Euler's step to data from the lowest level, and from pure noise where there is that.
        assert counted.calls == 10 * order - (order - 1) * (2 if chain.schedule else 1)
        # In two steps the one to data has the midpoint's evaluation.
        counted = Counted(ExactDenoiser(DATA, chain, FixedSmall()))
        for step in RungeKutta(order).plan(chain.levels[torch.tensor([9, 5, 0])], chain.at_log_snr):
            x, _, _ = step(counted, x, (), None)
        assert counted.calls == order + 2
    with pytest.raises(InputError, match="of the orders 2 and 4"):
        RungeKutta(3)
