"""Denoisers and the reverse process that follows from one."""

import math

import pytest
import torch
from torch import nn

from clearwater.chains import linear
from clearwater.denoisers import Clipped, Denoiser, NetworkDenoiser
from clearwater.gaussians import Gaussian
from clearwater.levels import Pair
from clearwater.process import posterior
from clearwater.targets import X0, Eps, Mean, Prediction, Score, V, Velocity, prediction_from_x_0
from clearwater.variances import FixedLarge, FixedSmall

CHAIN = linear(1000)
K = torch.tensor([1, 2, 10, 349, 700, 1000])


class Answer(nn.Module):
    """A network that says `y` whatever it is asked, and remembers the question."""

    def __init__(self, y=None):
        super().__init__()
        self.y = y
        self.asked = []

    def forward(self, x, time):
        self.asked.append((x, time))
        return x if self.y is None else self.y


def images(n, seed=0):
    return torch.randn(n, len(K), 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def per_image(x):
    return x.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    "target", [Eps(), X0(), V(), Score(), Velocity(), Mean(CHAIN)], ids=lambda target: type(target).__name__
)
def test_a_network_that_says_the_target_predicts_the_data_and_the_noise(target):
    x_0, eps = images(2)
    t = CHAIN.levels[K]
    denoiser = NetworkDenoiser(Answer(target.value(x_0, eps, t)), CHAIN, target, FixedSmall())
    prediction = denoiser(t.noise(x_0, eps), t)
    torch.testing.assert_close(prediction.x_0, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.eps, eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", [FixedLarge(), FixedSmall()], ids=["large", "small"])
def test_the_reverse_step_of_a_noise_network_is_ho_s_algorithm_2(variance):
    """The mean is (x_t - beta_t / √(1 - alpha_bar_t) · eps_θ) / √(1 - beta_t) (Ho et al. 2020, eq. 11)."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    x_t, eps = images(2)
    b, a = per_image(beta[K - 1]), per_image(alpha_bar[K - 1])
    reverse = NetworkDenoiser(Answer(eps), CHAIN, Eps(), variance).reverse(x_t, CHAIN.pair(K))
    torch.testing.assert_close(reverse.mean, (x_t - b / (1 - a).sqrt() * eps) / (1 - b).sqrt(), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(reverse.variance, per_image(variance(CHAIN.pair(K))), rtol=1e-15, atol=0)


@pytest.mark.parametrize("target", [Eps(), X0(), V()], ids=["eps", "x_0", "v"])
def test_the_bound_s_terms_are_weighted_squares_of_the_target_s_error(target):
    """KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) against approaches 2 and 3 of MATH.md, section 4, sigma_q² = beta-tilde."""
    k = K[1:]
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    b, a_t, a_s = beta[k - 1], alpha_bar[k - 1], alpha_bar[k - 2]
    small = (1 - a_s) / (1 - a_t) * b
    weight = {
        "Eps": b.square() / (2 * small * (1 - b) * (1 - a_t)),
        "X0": 0.5 * (a_s / (1 - a_s) - a_t / (1 - a_t)),
        "V": a_s * b.square() / (2 * small * (1 - a_t).square()) * (1 - a_t),
    }[type(target).__name__]
    x_0, eps, error = images(3)[:, 1:]
    pair = CHAIN.pair(k)
    x_t = pair.t.noise(x_0, eps)
    network = Answer(target.value(x_0, eps, pair.t) + error)
    kl = posterior(x_t, x_0, pair).kl(NetworkDenoiser(network, CHAIN, target, FixedSmall()).reverse(x_t, pair))
    torch.testing.assert_close(kl, per_image(weight) * error.square(), rtol=1e-7, atol=1e-15)


def test_with_the_large_variance_the_bound_s_terms_gain_only_a_constant():
    """Approach 1: ‖mean difference‖² / (2 sigma_q²), beside ½(r - 1 - log r) with r = beta-tilde / beta."""
    k = K[1:]
    pair = CHAIN.pair(k)
    x_0, eps, error = images(3)[:, 1:]
    x_t = pair.t.noise(x_0, eps)
    network = Answer(Mean(CHAIN).value(x_0, eps, pair.t) + error)
    q, p = posterior(x_t, x_0, pair), NetworkDenoiser(network, CHAIN, Mean(CHAIN), FixedLarge()).reverse(x_t, pair)
    ratio = pair.posterior_variance / pair.transition_variance
    constant = 0.5 * (ratio - 1 - ratio.log())
    expected = per_image(constant) + error.square() / per_image(2 * pair.transition_variance)
    torch.testing.assert_close(q.kl(p), expected, rtol=1e-7, atol=1e-12)


def test_the_network_is_fed_the_images_and_the_time_of_each():
    network = Answer()
    denoiser = NetworkDenoiser(network, CHAIN, Eps(), FixedSmall())
    x_t = images(1)[0].float()
    denoiser(x_t, CHAIN.levels[K])
    denoiser(x_t, CHAIN.levels[250])
    (first, times), (_, time) = network.asked
    assert torch.equal(first, x_t)
    torch.testing.assert_close(times, (K / 1000).float(), rtol=1e-7, atol=0)
    assert times.dtype == torch.float32
    assert time.tolist() == [0.25] * len(K)


def test_levels_of_a_stride_are_the_levels_the_network_knows():
    network = Answer()
    denoiser = NetworkDenoiser(network, CHAIN, Eps(), FixedSmall())
    strided = CHAIN.strided(4)
    denoiser(images(1)[0, :4], strided.levels[1:])
    assert network.asked[0][1].tolist() == [0.25, 0.5, 0.75, 1.0]


def test_autocast_does_the_matrix_work_in_the_dtype_asked_for():
    linear_layer = nn.Linear(8, 8)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))

    class Ignoring(nn.Module):
        def forward(self, x, time):
            return linear_layer(x)

    network = Ignoring()
    half = NetworkDenoiser(network, CHAIN, Eps(), FixedSmall(), autocast=torch.bfloat16)
    with torch.no_grad():
        said = half.output(x, CHAIN.levels[500])
        by_hand = nn.functional.linear(x.bfloat16(), linear_layer.weight.bfloat16(), linear_layer.bias.bfloat16())
        plain = NetworkDenoiser(network, CHAIN, Eps(), FixedSmall()).output(x, CHAIN.levels[500])
    assert torch.equal(said, by_hand.float())
    assert torch.equal(plain, linear_layer(x))


def test_clipping_puts_x_0_into_the_range_and_eps_back_on_x_t():
    x_0, eps = images(2)
    x_0 = 2 * x_0
    t = CHAIN.levels[K]
    x_t = t.noise(x_0, eps)
    inner = NetworkDenoiser(Answer(x_0), CHAIN, X0(), FixedSmall())
    for low, high in ((-1.0, 1.0), (0.0, 0.5)):
        clipped = Clipped(inner, low, high)(x_t, t)
        assert clipped.x_0.tolist() == [[[[min(max(v, low), high) for v in row] for row in c[0]]] for c in x_0.tolist()]
        torch.testing.assert_close(t.noise(clipped.x_0, clipped.eps), x_t, rtol=1e-12, atol=1e-12)


def test_clipping_leaves_a_prediction_inside_the_range_alone():
    x_0, eps = images(2)
    x_0 = x_0.tanh()
    t = CHAIN.levels[K]
    x_t = t.noise(x_0, eps)
    inner = NetworkDenoiser(Answer(eps), CHAIN, Eps(), FixedLarge())
    outer = Clipped(inner)
    torch.testing.assert_close(outer(x_t, t).x_0, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outer(x_t, t).eps, eps, rtol=1e-9, atol=1e-9)
    assert outer.chain is CHAIN
    assert outer.variance is inner.variance


def test_the_reverse_step_of_a_clipped_denoiser_is_the_posterior_of_the_clipped_data():
    x_t = images(1)[0]
    pair = CHAIN.pair(K)
    outer = Clipped(NetworkDenoiser(Answer(torch.full_like(x_t, 3.0)), CHAIN, X0(), FixedSmall()))
    expected = posterior(x_t, torch.ones_like(x_t), pair).mean
    torch.testing.assert_close(outer.reverse(x_t, pair).mean, expected, rtol=1e-14, atol=0)


def test_the_exact_denoiser_of_gaussian_data_reverses_the_chain_exactly_in_the_mean():
    """For x_0 ~ N(m, s²) the joint (x_s, x_t) is Gaussian: E[x_s | x_t] = α_s m + Cov(x_s, x_t)/Var(x_t) (x_t - α_t m).

    So the posterior at E[x_0 | x_t] has the mean of the true reverse step, on any pair of levels.
    """
    m, s = 0.3, 0.4

    class Exact(Denoiser):
        chain, variance = CHAIN, FixedSmall()

        def __call__(self, x_t, t):
            alpha, sigma = float(t.alpha), float(t.sigma)
            x_0 = (m / s**2 + alpha * x_t / sigma**2) / (1 / s**2 + alpha**2 / sigma**2)
            return prediction_from_x_0(x_0, x_t, t)

    x_t = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1)
    for chain in (CHAIN, CHAIN.strided(7)):
        for k in (1, 2, chain.T):
            pair = chain.pair(k)
            a_s, a_t = float(pair.s.alpha), float(pair.t.alpha)
            covariance = a_s * a_t * s**2 + a_t / a_s * float(pair.s.sigma) ** 2
            total = a_t**2 * s**2 + float(pair.t.sigma) ** 2
            expected = a_s * m + covariance / total * (x_t - a_t * m)
            torch.testing.assert_close(Exact().reverse(x_t, pair).mean, expected, rtol=1e-11, atol=1e-12)


def test_reverse_from_uses_the_prediction_it_is_given():
    """At s = data the posterior is the point x_0, with the paper's variance around it."""
    network = Answer()
    denoiser = NetworkDenoiser(network, CHAIN, Eps(), FixedLarge())
    x_t, x_0 = images(2)
    pair = CHAIN.pair(torch.ones(len(K), dtype=torch.int64))
    reverse = denoiser.reverse_from(Prediction(x_0, x_t), x_t, pair)
    assert not network.asked
    assert torch.equal(reverse.mean, x_0)
    assert reverse.variance.flatten().tolist() == pytest.approx([5.45318766e-5] * len(K), rel=1e-9, abs=0)


def test_the_decoder_of_a_pair_without_a_rule_has_no_density_with_the_small_variance():
    levels = CHAIN.levels
    denoiser = NetworkDenoiser(Answer(), CHAIN, X0(), FixedSmall())
    reverse = denoiser.reverse(images(1)[0], Pair(levels[0], levels[1]))
    assert isinstance(reverse, Gaussian)
    assert float(reverse.variance) == 0
    assert math.isfinite(float(denoiser.reverse(images(1)[0], CHAIN.pair(1)).entropy().sum()))
