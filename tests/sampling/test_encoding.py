"""From an image to its noise and back, and between two noises."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_data
from clearwater.chains import Chain, linear
from clearwater.errors import InputError
from clearwater.sampling import (
    DDIM,
    AdaptiveODE,
    DPMSolver,
    Euler,
    Heun,
    SinglestepDPMSolver,
    UniPC,
    encode,
    log_snr,
    sampling_states,
    slerp,
)
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.variances import FixedSmall

CHAINS = {
    "vp": Chain.from_schedule(VP(), 1000),
    "ve": Chain.from_schedule(VE(sigma_max=20.0), 1000),
    "flow": Chain.from_schedule(RectifiedFlow(), 1000),
}
DATA = GaussianMixture(
    *(torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.15, 0.25]))
)
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


def images(n=8):
    return DATA.sample(n, torch.Generator().manual_seed(0))


def decoded(denoiser, x, chain, stepper):
    def refuse():
        raise AssertionError("noise was drawn")

    *_, state = sampling_states(denoiser, refuse, chain, stepper, x)
    return state.x


def slope(counts, errors):
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@of_chain
@pytest.mark.parametrize(
    ("stepper", "order"),
    [(DDIM(), 1), (Euler(), 1), (Heun(), 3), (SinglestepDPMSolver(), 3)],
    ids=["ddim", "euler", "heun", "dpm++2s"],
)
def test_an_encoded_image_comes_back_with_an_error_of_the_sampler_s_order(chain, stepper, order):
    """A method of even order makes there and back the same leading error with opposite signs: one order is gained."""
    denoiser, counts, errors = ExactDenoiser(DATA, chain, FixedSmall()), [40, 80, 160], []
    for K in counts:
        grid = log_snr(chain, K)
        back = decoded(denoiser, encode(denoiser, images(), grid, stepper), grid, stepper)
        errors.append(float((back - images()).square().mean().sqrt()))
    assert slope(counts, errors) == pytest.approx(order, abs=0.25)
    assert errors[-1] < (0.03 if order == 1 else 1e-4)


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize(
    ("stepper", "order"),
    [(DDIM(), 1), (Heun(), 2), (SinglestepDPMSolver(), 2), (DPMSolver(2), 2), (UniPC(1), 2)],
    ids=["ddim", "heun", "dpm++2s", "dpm++2m", "unipc1"],
)
def test_the_noise_of_an_image_converges_to_that_of_the_exact_ode(name, stepper, order):
    chain = CHAINS[name]
    denoiser, counts, errors = ExactDenoiser(DATA, chain, FixedSmall()), [50, 100, 200], []
    truth = encode(denoiser, images(), log_snr(chain, 2), AdaptiveODE(1e-11))
    for K in counts:
        found = encode(denoiser, images(), log_snr(chain, K), stepper)
        errors.append(float((found - truth).square().mean().sqrt()))
    assert slope(counts, errors) == pytest.approx(order, abs=0.3)


@of_chain
def test_the_noise_of_gaussian_data_is_the_closed_form(chain):
    """The ODE keeps (x - alpha m) / √(alpha² v + sigma²); level 1 is where E[x_0 | x_1] is the image."""
    m, v = torch.tensor([0.3, -0.2], dtype=torch.float64), 0.25
    denoiser = ExactDenoiser(gaussian_data(m, v), chain, FixedSmall())
    grid = log_snr(Chain(chain.levels[:-1]), 3)  # up to a level that has signal
    first, last = grid.levels[1], grid.levels[-1]
    found = encode(denoiser, images(), grid, AdaptiveODE(1e-10))
    variances = [float(level.alpha**2 * v + level.sigma**2) for level in (first, last)]
    # x̂_0 - m = alpha_1 v / (alpha_1² v + sigma_1²) (x_1 - alpha_1 m)
    x_1 = (images() - m) * variances[0] / (float(first.alpha) * v)
    expected = float(last.alpha) * m + x_1 * math.sqrt(variances[1] / variances[0])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_the_noises_of_many_images_are_normal():
    chain = CHAINS["vp"]
    x_0 = DATA.sample(4000, torch.Generator().manual_seed(1))
    z = encode(ExactDenoiser(DATA, chain, FixedSmall()), x_0, log_snr(chain, 60), Heun())
    # Five standard errors, and alpha_T: the prior itself is that far from normal.
    assert float(z.mean(0).abs().max()) < 5 / math.sqrt(4000) + float(chain.levels.alpha[-1])
    assert float((z.T @ z / 4000 - torch.eye(2)).abs().max()) < 5 * math.sqrt(2 / 4000) + 1e-2
    assert float((z**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / 8000))


def test_the_denoiser_s_own_chain_and_ddim_are_the_default():
    chain = linear(60)
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    assert torch.equal(encode(denoiser, images()), encode(denoiser, images(), chain, DDIM()))


def test_a_random_sampler_encodes_nothing():
    chain = linear(60)
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    with pytest.raises(InputError, match="deterministic"):
        encode(denoiser, images(), chain, Heun(churn=5.0))


vectors = st.lists(st.floats(-3, 3), min_size=4, max_size=4)
weights = st.floats(0, 1)


def pair(a, b):
    return torch.tensor([a], dtype=torch.float64).reshape(1, 1, 2, 2), torch.tensor([b]).double().reshape(1, 1, 2, 2)


def apart(a, b):
    """The angle between two noises, if both have a length."""
    if not min(float(a.norm()), float(b.norm())) > 1e-3:
        return None
    return math.acos(max(-1, min(1, float((a * b).sum() / (a.norm() * b.norm())))))


@given(a=vectors, b=vectors)
def test_slerp_begins_at_one_noise_and_ends_at_the_other(a, b):
    a, b = pair(a, b)
    torch.testing.assert_close(slerp(a, b, 0.0), a, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slerp(a, b, 1.0), b, rtol=1e-9, atol=1e-9)


@given(a=vectors, b=vectors, weight=weights)
def test_slerp_is_the_same_from_the_other_end(a, b, weight):
    a, b = pair(a, b)
    torch.testing.assert_close(slerp(a, b, weight), slerp(b, a, 1 - weight), rtol=1e-7, atol=1e-7)


@given(a=vectors, b=vectors, weight=weights)
def test_slerp_keeps_the_length_and_turns_by_the_share_of_the_angle(a, b, weight):
    a, b = pair(a, b)
    angle = apart(a, b)
    if angle is None or angle > math.pi - 1e-3:  # between opposite noises there is no one way
        return
    b = b * (a.norm() / b.norm())
    between = slerp(a, b, weight)
    assert float(between.norm()) == pytest.approx(float(a.norm()), rel=1e-6)
    assert apart(a, between) == pytest.approx(weight * angle, abs=1e-5)


def test_slerp_treats_each_image_for_itself_and_keeps_the_type():
    a, b = torch.randn(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = slerp(a, b, 0.3)
    assert together.dtype == torch.float32
    for row in range(5):
        torch.testing.assert_close(together[row : row + 1], slerp(a[row : row + 1], b[row : row + 1], 0.3))
    # Two independent noises are nearly at a right angle, and the straight line between them is shorter.
    assert float(together.std()) == pytest.approx(1, abs=0.1)
    assert float((0.7 * a + 0.3 * b).std()) < 0.85


def test_what_lies_between_two_images_has_the_spread_of_samples():
    """Halfway between the noises of images of Gaussian data, slerp is a sample of it; the straight line is not."""
    chain = CHAINS["vp"]
    data = gaussian_data(torch.zeros(64, dtype=torch.float64), 0.25)
    denoiser, grid = ExactDenoiser(data, chain, FixedSmall()), log_snr(chain, 40)
    a, b = (data.sample(50, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    noises = [encode(denoiser, x, grid, Heun()) for x in (a, b)]
    middle = decoded(denoiser, slerp(*noises, 0.5), grid, Heun())
    straight = decoded(denoiser, (noises[0] + noises[1]) / 2, grid, Heun())
    assert float(middle.var()) == pytest.approx(0.25, rel=0.1)
    assert float(straight.var()) == pytest.approx(0.125, rel=0.1)
    # At each end the image itself.
    torch.testing.assert_close(decoded(denoiser, slerp(*noises, 0.0), grid, Heun()), a, rtol=0, atol=2e-3)
