"""What the demonstrations measure, against closed forms."""

import math

import pytest
import torch
from torch import nn

from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_data
from clearwater.chains import Chain, cosine, linear
from clearwater.demonstrations import OneShot, gradient_variance, one_shot, reverse_step_kl, step_of_beta, two_peaks
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.randomness import ImageNoise
from clearwater.targets import X0, Eps
from clearwater.variances import FixedSmall

LEVELS = linear().levels


@pytest.mark.parametrize("beta", [1e-4, 0.02, 0.7])
def test_the_step_of_a_beta_adds_noise_of_that_variance_and_preserves_variance(beta):
    pair = step_of_beta(LEVELS[100], beta)
    assert float(pair.transition_variance) == pytest.approx(beta, rel=1e-9)
    assert float(pair.t.alpha**2 + pair.t.sigma**2) == pytest.approx(1, rel=1e-12)


def test_the_step_of_the_chains_own_beta_is_the_chains_own():
    pair, own = step_of_beta(LEVELS[200], float(linear().beta[200])), linear().pair(201)
    assert float(pair.t.alpha) == pytest.approx(float(own.t.alpha), rel=1e-12)
    assert float(pair.posterior_variance) == pytest.approx(float(own.posterior_variance), rel=1e-9)


@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_the_reverse_step_of_gaussian_data_is_gaussian(beta):
    data = gaussian_data(torch.tensor([0.4]), 0.3)
    assert abs(reverse_step_kl(data, step_of_beta(LEVELS[100], beta))) < 1e-12


def test_a_step_that_forgets_everything_leaves_the_distance_of_the_data_itself():
    """At beta → 1, q(x_s | x_t) is q(x_s): the KL is its negative entropy to the Gaussian's, by quadrature."""
    data, s = two_peaks(), LEVELS[100]
    x = torch.linspace(-4, 4, 40_001, dtype=torch.float64)
    log_q = data.at(s, len(x)).log_prob(x.unsqueeze(1))
    entropy = -float(torch.trapezoid(log_q.exp() * log_q, x))
    of_gaussian = 0.5 * math.log(2 * math.pi * math.e * float(data.at(s).moments().variance))
    found = reverse_step_kl(data, step_of_beta(s, 1 - 1e-9))
    assert found == pytest.approx(of_gaussian - entropy, rel=1e-6)


def test_the_distance_falls_with_the_third_power_of_beta():
    """The skewness of the step is of order beta^(3/2), and the KL of order its square."""
    kl = [reverse_step_kl(two_peaks(), step_of_beta(LEVELS[200], beta)) for beta in (1e-3, 2e-3)]
    assert math.log2(kl[1] / kl[0]) == pytest.approx(3, abs=0.05)


def test_only_data_on_a_line_is_measured():
    plane = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    with pytest.raises(InputError, match="on a line"):
        reverse_step_kl(plane, step_of_beta(LEVELS[100], 0.1))
    with pytest.raises(InputError, match="between 0 and 1"):
        step_of_beta(LEVELS[100], 1.0)


def test_the_one_shot_prediction_is_the_mean_of_the_data_and_the_sample_is_not():
    """E[x_0 | x_T] of two far points is their weighted mean where nothing of x_0 is left."""
    data = GaussianMixture(
        torch.tensor([0.25, 0.75]), torch.tensor([[[[-0.8]]], [[[0.8]]]]), torch.tensor([1e-4, 1e-4])
    )
    chain = cosine(100)
    found = one_shot(ExactDenoiser(data, chain, FixedSmall()), ImageNoise(0, range(200), (1, 1, 1), "cpu"))
    assert found.noise.shape == found.predictions.shape == found.samples.shape == (200, 1, 1, 1)
    torch.testing.assert_close(found.predictions, torch.full_like(found.predictions, 0.4), rtol=0, atol=0.01)
    assert float((found.samples.abs() - 0.8).abs().max()) < 0.1
    assert float((found.samples > 0).double().mean()) == pytest.approx(0.75, abs=0.1)
    assert OneShot.spread(found.predictions) < 0.01
    assert OneShot.spread(found.samples) == pytest.approx(0.8 * 2 * math.sqrt(0.25 * 0.75), abs=0.1)


def test_spread_and_distance_are_root_mean_squares():
    images = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 1.0]]]])
    assert OneShot.spread(images) == pytest.approx(1.0)  # variances 2 and 0
    assert OneShot.distance(images, torch.ones(1, 1, 2)) == pytest.approx(math.sqrt(0.5))


class Constant(nn.Module):
    """x̂_0 = c in every pixel: the gradient of both objectives is known."""

    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, x, time):
        return self.c.expand_as(x)


def test_the_gradients_of_a_constant_prediction_vary_as_their_closed_forms_say():
    """One pixel, x_0 ~ N(0, v): d/dc of c_0²(x_0 - c)²/2β̃ is c_0²(c - x_0)/β̃, of variance c_0⁴v/β̃².

    The Euclidean gradient is c_0 (c_0 c + c_t x_t - x_s)/β̃, whose noise β̃ + c_0² v is independent of c.
    """
    chain = Chain(linear(1000).strided(20).levels)
    v = 0.3
    x_0 = v**0.5 * torch.randn(100_000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = NetworkDenoiser(Constant(), chain, X0(), FixedSmall())
    found = gradient_variance(denoiser, x_0, FixedSmall(), levels=3, draws=700, batch=1)
    pairs = chain.pair(found.levels)
    beta_tilde = FixedSmall()(pairs)
    merged = pairs.c_0**4 * v / beta_tilde**2
    noise = pairs.posterior_variance  # zero at k = 1, where x_s is the data
    euclidean = pairs.c_0**2 * (noise + pairs.c_0**2 * v) / beta_tilde**2
    torch.testing.assert_close(found.merged, merged, rtol=0.2, atol=0)
    torch.testing.assert_close(found.euclidean, euclidean, rtol=0.2, atol=0)
    expected = 1 + noise / (pairs.c_0**2 * (v + 0.2**2))
    torch.testing.assert_close(found.expected_ratio, expected, rtol=0.8, atol=0)  # of 4 images alone


def test_the_denoiser_in_question_may_predict_anything():
    chain = linear(1000).strided(20)
    x_0 = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = gradient_variance(
        NetworkDenoiser(Constant(), chain, Eps(), FixedSmall()), x_0, FixedSmall(), levels=3, draws=100, batch=2
    )
    # At level 1 there is one noise in both; above it the second noise comes on top.
    assert float(found.euclidean[0] / found.merged[0]) == pytest.approx(1, rel=0.3)
    assert bool((found.euclidean[1:] > found.merged[1:]).all())
