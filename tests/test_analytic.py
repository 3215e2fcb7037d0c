"""The exact test beds against quadrature in one dimension and against Bayes' rule."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from clearwater import Chain, FixedLarge, FixedSmall, InputError, Level, Pair, chain
from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_bound, gaussian_data
from clearwater.chains import linear
from clearwater.decoders import DensityDecoder
from clearwater.likelihood import prior_term, step_term
from clearwater.schedules import VE, VP, RectifiedFlow

WEIGHTS, MEANS, VARIANCES = [0.2, 0.5, 0.3], [-1.0, 0.3, 1.2], [0.04, 0.3, 0.01]
MIXTURE = GaussianMixture(*(torch.tensor(x, dtype=torch.float64) for x in (WEIGHTS, [[m] for m in MEANS], VARIANCES)))
SCHEDULES = [VP(), RectifiedFlow(), VE(sigma_max=5.0)]


def level(schedule: VP | RectifiedFlow | VE, t: float) -> Level:
    return schedule(torch.tensor(t, dtype=torch.float64))


def data_density(x: np.ndarray) -> np.ndarray:
    parts = [w * stats.norm.pdf(x, m, math.sqrt(v)) for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True)]
    return np.sum(parts, axis=0)


def joint(x_0: float, x_t: float, t: Level) -> float:
    return float(data_density(np.array(x_0)) * stats.norm.pdf(x_t, float(t.alpha) * x_0, float(t.sigma)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("x_t", [-0.7, 0.4, 2.0])
def test_the_marginal_and_the_posterior_mean_are_those_of_quadrature(schedule, x_t: float) -> None:
    t = level(schedule, 0.4)
    evidence, _ = integrate.quad(joint, -6, 6, args=(x_t, t), points=MEANS, limit=400, epsabs=1e-13)
    first, _ = integrate.quad(lambda x: x * joint(x, x_t, t), -6, 6, points=MEANS, limit=400, epsabs=1e-13)
    second, _ = integrate.quad(lambda x: x * x * joint(x, x_t, t), -6, 6, points=MEANS, limit=400, epsabs=1e-13)
    x = torch.tensor([[x_t]], dtype=torch.float64)
    assert float(MIXTURE.at(t).log_prob(x)) == pytest.approx(math.log(evidence), abs=1e-9)
    moments = MIXTURE.data_given(x, t).moments()
    assert float(moments.mean) == pytest.approx(first / evidence, abs=1e-9)
    assert float(moments.variance) == pytest.approx(second / evidence - (first / evidence) ** 2, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_reverse_conditional_is_bayes_rule(schedule) -> None:
    s, t = level(schedule, 0.3), level(schedule, 0.5)
    pair = Pair(s, t)
    x_t = torch.tensor([[0.6]], dtype=torch.float64)
    reverse = MIXTURE.reverse(x_t, pair)
    for value in (-1.5, -0.2, 0.5, 1.1):
        x_s = torch.tensor([[value]], dtype=torch.float64)
        forward = stats.norm.logpdf(
            0.6, float(pair.transition_coefficient) * value, math.sqrt(float(pair.transition_variance))
        )
        bayes = forward + float(MIXTURE.at(s).log_prob(x_s)) - float(MIXTURE.at(t).log_prob(x_t))
        assert float(reverse.log_prob(x_s)) == pytest.approx(bayes, abs=1e-9)


def test_its_samples_have_its_moments() -> None:
    x = MIXTURE.sample(200_000, torch.Generator().manual_seed(0))[:, 0]
    mean = sum(w * m for w, m in zip(WEIGHTS, MEANS, strict=True))
    second = sum(w * (m * m + v) for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True))
    assert float(x.mean()) == pytest.approx(mean, abs=5 * math.sqrt(second / 200_000))
    assert float(x.square().mean()) == pytest.approx(second, abs=0.02)


def test_the_exact_denoiser_of_a_gaussian_is_linear_regression() -> None:
    data = gaussian_data(torch.full((1, 2, 2), 0.3, dtype=torch.float64), 0.5)
    levels = chain("cosine", 100)
    t = levels.levels[torch.tensor([10, 60, 99])]
    x_t = torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prediction = ExactDenoiser(data, levels, FixedSmall())(x_t, t)
    alpha, sigma = (value.reshape(-1, 1, 1, 1) for value in (t.alpha, t.sigma))
    regression = 0.3 + 0.5 * alpha / (alpha**2 * 0.5 + sigma**2) * (x_t - alpha * 0.3)
    torch.testing.assert_close(prediction.x_0, regression, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alpha * prediction.x_0 + sigma * prediction.eps, x_t, rtol=1e-12, atol=1e-12)


def test_the_reverse_conditional_tends_to_its_best_gaussian_as_the_step_shrinks() -> None:
    # MATH: for small beta the true q(x_{t-1} | x_t) is close to Gaussian. Its KL by quadrature, falling steps.
    divergences = []
    for step in (0.3, 0.1, 0.03, 0.01):
        pair = Pair(level(VP(), 0.5 - step), level(VP(), 0.5))
        reverse = MIXTURE.reverse(torch.tensor([[0.3]], dtype=torch.float64), pair)
        best = reverse.moments()
        grid = torch.linspace(-4, 4, 20_001, dtype=torch.float64)
        log_q = torch.stack([reverse.log_prob(x.reshape(1, 1)) for x in grid]).flatten()
        log_p = best.log_prob(grid.reshape(-1, 1)).flatten()
        divergences.append(float(((log_q - log_p) * log_q.exp()).sum() * (grid[1] - grid[0])))
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[-1] < divergences[0] / 100


@pytest.mark.parametrize(
    ("weights", "variances"), [([0.5, 0.6], [1.0, 1.0]), ([1.5, -0.5], [1.0, 1.0]), ([0.5, 0.5], [1.0, -1.0])]
)
def test_what_is_no_mixture_is_refused(weights: list[float], variances: list[float]) -> None:
    with pytest.raises(InputError):
        GaussianMixture(torch.tensor(weights), torch.zeros(2, 1), torch.tensor(variances))


@pytest.mark.parametrize("levels", [linear(1000).strided(40), Chain.from_schedule(VE(), 30)], ids=["vp", "ve"])
@pytest.mark.parametrize("rule", [FixedSmall(), FixedLarge()], ids=["small", "large"])
def test_the_bound_of_a_gaussian_is_the_expectation_of_every_term(levels, rule) -> None:
    """Every term is quadratic in x_0 and eps: its mean is that over each at ± one deviation."""
    mean, v = torch.tensor([0.3, -0.2], dtype=torch.float64), 0.15
    data = gaussian_data(mean, v)
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    x_0, eps = mean + v**0.5 * signs[:, :1], signs[:, 1:].expand(4, 2)
    denoiser = ExactDenoiser(data, levels, rule)
    terms = []
    for k in range(1, levels.T + 1):
        pair = levels.pair(k)
        x_t = pair.t.noise(x_0, eps)
        terms.append(float(step_term(x_0, x_t, denoiser.reverse(x_t, pair), pair, DensityDecoder()).mean()) / 2)
    found = gaussian_bound(data, levels, rule)
    torch.testing.assert_close(found.kl, torch.tensor(terms[1:], dtype=torch.float64), rtol=1e-9, atol=1e-14)
    assert float(found.decoder) == pytest.approx(terms[0], rel=1e-9)
    assert float(found.prior) == pytest.approx(float(prior_term(x_0, levels).mean()) / 2, rel=1e-9)
    total = (sum(terms) + float(found.prior)) / math.log(2)
    assert found.total == pytest.approx(total, rel=1e-9)


def test_only_one_gaussian_has_a_bound_in_closed_form() -> None:
    two = GaussianMixture(torch.ones(2) / 2, torch.zeros(2, 1), torch.ones(2))
    with pytest.raises(InputError, match="mixture of 2"):
        gaussian_bound(two, linear(), FixedSmall())
