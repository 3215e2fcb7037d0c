"""Guidance and thresholding against their formulas and against exact conditional denoisers of a mixture."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.analytic import ExactDenoiser, GaussianMixture
from clearwater.chains import Chain, linear
from clearwater.denoisers import Clipped, Denoiser
from clearwater.errors import InputError
from clearwater.guidance import ClassifierGuided, DynamicThreshold, Guided
from clearwater.sampling import Heun, quadratic, sampling_states
from clearwater.schedules import VE, RectifiedFlow
from clearwater.targets import prediction_from_x_0
from clearwater.variances import FixedLarge, FixedSmall

CHAINS = {"vp": linear(1000), "ve": Chain.from_schedule(VE(), 100), "flow": Chain.from_schedule(RectifiedFlow(), 100)}
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
# The first two components are one class, the third is the other.
WEIGHTS, MEANS, VARIANCES = [0.2, 0.3, 0.5], [[-0.6, 0.2], [-0.2, -0.5], [0.5, 0.4]], [0.04, 0.1, 0.06]


def mixture(components):
    weights = torch.tensor([WEIGHTS[k] for k in components], dtype=torch.float64)
    means = torch.tensor([MEANS[k] for k in components], dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, torch.tensor([VARIANCES[k] for k in components]).double())


ALL, CLASSES = mixture([0, 1, 2]), [mixture([0, 1]), mixture([2])]


class Said(Denoiser):
    """Says the same x_0 whatever x_t is, and counts how often."""

    def __init__(self, x_0, chain=CHAINS["vp"], extra=None):
        self.x_0, self.chain, self.variance, self.extra, self.calls = x_0, chain, FixedLarge(), extra, 0

    def __call__(self, x_t, t):
        self.calls += 1
        return prediction_from_x_0(self.x_0, x_t, t, self.extra)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(seed=0):
    return normal(5, 3, 4, 4, seed=seed)


LEVEL = CHAINS["vp"].levels[600]


def consistent(prediction, x_t, t):
    torch.testing.assert_close(t.noise(prediction.x_0, prediction.eps), x_t, rtol=1e-10, atol=1e-10)


@given(scale=st.floats(-3, 12))
def test_guidance_goes_on_from_the_guide_through_the_denoiser_by_the_scale(scale):
    """guide + scale (denoiser - guide) (Ho & Salimans 2022, eq. 6, with their w = scale - 1), for x_0 as for eps."""
    a, b, x_t = images(1), images(2), images(3)
    guided = Guided(Said(a), Said(b), scale)(x_t, LEVEL)
    torch.testing.assert_close(guided.x_0, b + scale * (a - b), rtol=1e-10, atol=1e-10)
    eps = [prediction_from_x_0(x_0, x_t, LEVEL).eps for x_0 in (a, b)]
    torch.testing.assert_close(guided.eps, eps[1] + scale * (eps[0] - eps[1]), rtol=1e-9, atol=1e-9)
    consistent(guided, x_t, LEVEL)


def test_a_scale_of_one_is_the_denoiser_itself_and_asks_no_guide():
    denoiser, guide, x_t = Said(images(1), extra=images(4)), Said(images(2)), images(3)
    guided = Guided(denoiser, guide, 1.0)
    prediction, plain = guided(x_t, LEVEL), denoiser(x_t, LEVEL)
    assert torch.equal(prediction.x_0, plain.x_0)
    assert torch.equal(prediction.eps, plain.eps)
    assert torch.equal(prediction.extra, plain.extra)
    assert guide.calls == 0
    torch.testing.assert_close(Guided(denoiser, guide, 0.0)(x_t, LEVEL).x_0, guide.x_0, rtol=1e-12, atol=1e-12)
    assert guide.calls == 1


def test_guidance_is_off_and_asks_no_guide_outside_its_interval():
    chain, guide = CHAINS["vp"], Said(images(2))
    guided = Guided(Said(images(1)), guide, 3.0, interval=(0.3, 0.7))
    for k, on in ((1, False), (299, False), (300, True), (500, True), (700, True), (701, False), (1000, False)):
        before = guide.calls
        x_0 = guided(images(3), chain.levels[k]).x_0
        assert guide.calls - before == on
        torch.testing.assert_close(x_0, 3 * images(1) - 2 * images(2) if on else images(1))
    # A batch of levels is guided if all of them lie inside.
    some, every = torch.tensor([400, 500, 600, 650, 800]), torch.tensor([400, 500, 600, 650, 700])
    torch.testing.assert_close(guided(images(3), chain.levels[some]).x_0, images(1))
    torch.testing.assert_close(guided(images(3), chain.levels[every]).x_0, 3 * images(1) - 2 * images(2))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_brings_back_a_share_of_each_image_s_standard_deviation(share):
    """share · x std(denoiser) / std(x) + (1 - share) · x (Lin et al. 2024, eqs. 15 and 16)."""
    a, b = images(1) + 0.4, 0.5 * images(2)
    guided = Guided(Said(a), Said(b), 4.0, rescale=share)(images(3), LEVEL)
    full = (4 * a - 3 * b).numpy()
    for row in range(5):
        ratio = a[row].numpy().std(ddof=1) / full[row].std(ddof=1)
        expected = share * full[row] * ratio + (1 - share) * full[row]
        np.testing.assert_allclose(guided.x_0[row].numpy(), expected, rtol=1e-10)
        if share == 1:
            assert float(guided.x_0[row].std()) == pytest.approx(float(a[row].std()), rel=1e-10)
    consistent(guided, images(3), LEVEL)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rescale": 1.1}, r"rescaled by 0 .* 1, not by 1\.1"),
        ({"rescale": -0.1}, r"rescaled by 0 .* 1, not by -0\.1"),
        ({"interval": (0.5, 0.4)}, r"on between two times .* not \(0\.5, 0\.4\)"),
        ({"interval": (-0.1, 1.0)}, r"on between two times .* not \(-0\.1, 1\.0\)"),
        ({"interval": (0, 2)}, r"on between two times .* not \(0, 2\)"),
    ],
)
def test_guidance_that_cannot_be_is_refused_in_a_sentence(options, named):
    with pytest.raises(InputError, match=rf"^Guidance is {named}\.$"):
        Guided(Said(images(1)), Said(images(2)), 2.0, **options)


@of_chain
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_the_guided_score_is_that_of_the_density_raised_and_lowered(chain, scale):
    """∇ [scale log p(x_t | y) + (1 - scale) log p(x_t)], by differentiating the mixtures' own densities."""
    denoisers = [ExactDenoiser(data, chain, FixedSmall()) for data in (CLASSES[0], ALL)]
    for k in (chain.T // 10, chain.T // 2, chain.T - 1):
        t = chain.levels[k]
        x = (normal(6, 2) * float(t.alpha.square() + t.sigma.square()) ** 0.5).requires_grad_()
        log = scale * CLASSES[0].at(t, 6).log_prob(x) + (1 - scale) * ALL.at(t, 6).log_prob(x)
        (score,) = torch.autograd.grad(log.sum(), x)
        eps = Guided(*denoisers, scale)(x.detach(), t).eps
        torch.testing.assert_close(-eps / float(t.sigma), score, rtol=1e-7, atol=1e-7)


def log_class(label, chain):
    """log p(y | x_t), exactly, with only the time to tell which level it is."""

    def log_prob(x, time):
        t = chain.levels[(time.double() * chain.T).round().long()]
        share = WEIGHTS[0] + WEIGHTS[1] if label == 0 else WEIGHTS[2]
        return math.log(share) + CLASSES[label].at(t, len(x)).log_prob(x) - ALL.at(t, len(x)).log_prob(x)

    return log_prob


@of_chain
@pytest.mark.parametrize("label", [0, 1])
def test_the_exact_classifier_makes_the_exact_conditional_denoiser_of_the_marginal_one(chain, label):
    marginal, conditional = (ExactDenoiser(data, chain, FixedSmall()) for data in (ALL, CLASSES[label]))
    guided = ClassifierGuided(marginal, log_class(label, chain))
    k = torch.tensor([1, chain.T // 20, chain.T // 4, chain.T // 2, chain.T - 1])
    for t, n in [(chain.levels[k], 5), *((chain.levels[int(one)], 7) for one in k)]:
        size = (t.alpha.square() + t.sigma.square()).sqrt().expand(n)[:, None]
        x_t = normal(n, 2) * size
        expected = conditional(x_t, t)
        for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
            with mode:
                found = guided(x_t.clone(), t)
            assert not found.x_0.requires_grad
            torch.testing.assert_close(found.x_0, expected.x_0, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(found.eps, expected.eps, rtol=1e-7, atol=1e-7)


@given(scale=st.floats(-2, 10))
def test_the_classifier_s_gradient_counts_by_its_scale(scale):
    chain = CHAINS["vp"]
    marginal, t, x_t = ExactDenoiser(ALL, chain, FixedSmall()), chain.levels[300], normal(4, 2)
    plain = marginal(x_t, t).x_0
    once = ClassifierGuided(marginal, log_class(0, chain))(x_t, t).x_0 - plain
    found = ClassifierGuided(marginal, log_class(0, chain), scale)(x_t, t)
    torch.testing.assert_close(found.x_0 - plain, scale * once, rtol=1e-9, atol=1e-9)
    consistent(found, x_t, t)


def sampled(denoiser, n=3000):
    """On whole levels, which the classifier here is made for."""
    chain = denoiser.chain
    start = normal(n, 2, seed=7) * float(chain.prior_variance.sqrt())
    *_, state = sampling_states(denoiser, None, quadratic(chain, 80), Heun(), start)
    return state.x


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_samples_under_the_exact_classifier_are_those_of_the_class(name):
    chain = CHAINS[name]
    marginal, conditional = (ExactDenoiser(data, chain, FixedSmall()) for data in (ALL, CLASSES[1]))
    x = sampled(ClassifierGuided(marginal, log_class(1, chain)))
    torch.testing.assert_close(x, sampled(conditional), rtol=0, atol=1e-6)
    assert float((x.mean(0) - torch.tensor(MEANS[2])).abs().max()) < 5 * math.sqrt(0.06 / 3000) + 0.005
    assert float(x.var(0).mean()) == pytest.approx(0.06, rel=5 / math.sqrt(3000))


@of_chain
def test_stronger_guidance_makes_samples_that_are_surer_of_their_class_and_more_alike(chain):
    conditional, marginal = (ExactDenoiser(data, chain, FixedSmall()) for data in (CLASSES[1], ALL))
    surer, alike = [], []
    for scale in (0.0, 1.0, 2.0, 4.0):
        x = sampled(Guided(conditional, marginal, scale), 1000)
        surer.append(float(log_class(1, chain)(x, torch.full((1000,), 1 / chain.T)).exp().mean()))
        alike.append(float(x.var(0).sum()))
    assert surer == sorted(surer)
    assert surer[0] == pytest.approx(WEIGHTS[2], abs=0.08)  # no guidance at all: the share of the class
    assert surer[1] < surer[3]
    assert alike == sorted(alike, reverse=True)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_dynamic_thresholding_clips_to_the_quantile_and_divides_by_it(quantile, limit):
    x_0, x_t = 1.5 * images(1), images(3)
    x_0[0] *= 0.05  # one image lies within the limit
    prediction = DynamicThreshold(Said(x_0, extra=images(4)), quantile, limit)(x_t, LEVEL)
    for row in range(5):
        values = x_0[row].numpy()
        bound = max(limit, float(np.quantile(np.abs(values), quantile)))
        expected = np.clip(values, -bound, bound) * limit / bound
        np.testing.assert_allclose(prediction.x_0[row].numpy(), expected, rtol=1e-6, atol=1e-7)
    assert float(prediction.x_0.abs().max()) <= limit * (1 + 1e-12)
    torch.testing.assert_close(prediction.x_0[0], x_0[0], rtol=1e-12, atol=0)
    assert torch.equal(prediction.extra, images(4))
    consistent(prediction, x_t, LEVEL)


def test_where_the_quantile_is_within_the_limit_it_is_clipping():
    x_0, x_t = 0.4 * images(1), images(3)
    for row in range(5):
        x_0[row, 0, 0, row % 4] = 2.5 * (-1) ** row  # one pixel of 48 lies beyond
    dynamic = DynamicThreshold(Said(x_0), 0.9)(x_t, LEVEL)
    clipped = Clipped(Said(x_0))(x_t, LEVEL)
    torch.testing.assert_close(dynamic.x_0, clipped.x_0, rtol=1e-12, atol=0)
    torch.testing.assert_close(dynamic.eps, clipped.eps, rtol=1e-12, atol=1e-12)
    assert float((clipped.x_0 - x_0).abs().max()) == pytest.approx(1.5)


@pytest.mark.parametrize("quantile", [0.0, -0.5, 1.01])
def test_a_quantile_that_cannot_be_is_refused_in_a_sentence(quantile):
    with pytest.raises(InputError, match=rf"lies between 0 and 1, not {quantile}\.$"):
        DynamicThreshold(Said(images(1)), quantile)


@of_chain
@given(k=st.integers(1, 1000), seed=st.integers(0, 100), scale=st.floats(0, 8), rescale=st.floats(0, 1))
def test_what_any_of_them_predicts_is_on_the_path_through_x_t(chain, k, seed, scale, rescale):
    """alpha x_0 + sigma eps = x_t, or a sampler's step leaves the levels; and chain and variance are kept."""
    t, x_t = chain.levels[min(k, chain.T - 1)], normal(4, 2, seed=seed)
    conditional, marginal = (ExactDenoiser(data, chain, FixedLarge()) for data in (CLASSES[0], ALL))
    for denoiser in (
        Guided(conditional, marginal, scale, rescale=rescale),
        ClassifierGuided(marginal, log_class(0, chain), scale),
        DynamicThreshold(conditional, 0.5, 0.3),
        DynamicThreshold(Guided(Clipped(conditional), ClassifierGuided(marginal, log_class(1, chain)), scale)),
    ):
        prediction = denoiser(x_t, t)
        size = float(prediction.x_0.abs().max()) + float(x_t.abs().max())
        torch.testing.assert_close(t.noise(prediction.x_0, prediction.eps), x_t, rtol=0, atol=1e-10 * size)
        assert denoiser.chain is chain
        assert isinstance(denoiser.variance, FixedLarge)
