"""Linear inverse problems, against the closed forms that Gaussians and their mixtures have."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_data
from clearwater.chains import Chain, linear
from clearwater.denoisers import Denoiser, NetworkDenoiser
from clearwater.errors import InputError
from clearwater.inverse import Blurred, Downsampled, Masked, Posterior
from clearwater.sampling import DDIM, DPMSolver, Heun, UniPC, log_snr, sampling_states
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.targets import V, prediction_from_x_0
from clearwater.variances import FixedLarge, FixedSmall

CHAINS = {
    "vp": Chain.from_schedule(VP(), 1000),
    "ve": Chain.from_schedule(VE(), 1000),
    "flow": Chain.from_schedule(RectifiedFlow(), 1000),
}
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
SHAPE = (1, 4, 4)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = (normal(*SHAPE, seed=9) > 0).double()
MEASUREMENTS = {"masked": Masked(MASK), "downsampled": Downsampled(2), "blurred": Blurred(0.8)}
of_measurement = pytest.mark.parametrize("measurement", MEASUREMENTS.values(), ids=MEASUREMENTS.keys())


def matrix(measurement, shape=SHAPE):
    """A, one column a pixel."""
    n = math.prod(shape)
    return measurement(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).reshape(n, -1).T


@of_measurement
@given(a=st.floats(-5, 5), b=st.floats(-5, 5), seed=st.integers(0, 1000))
def test_a_measurement_is_linear_and_treats_each_image_and_channel_for_itself(measurement, a, b, seed):
    x, y = normal(2, 3, 2, 4, 4, seed=seed)
    torch.testing.assert_close(measurement(a * x + b * y), a * measurement(x) + b * measurement(y), rtol=0, atol=1e-12)
    if not isinstance(measurement, Masked):
        A = matrix(measurement)
        for image, measured in zip(x.reshape(6, 16), measurement(x).reshape(6, -1), strict=True):
            torch.testing.assert_close(measured, A @ image, rtol=0, atol=1e-12)


@of_measurement
@given(seed=st.integers(0, 1000))
def test_differentiation_gives_the_adjoint(measurement, seed):
    """⟨A x, v⟩ = ⟨x, Aᵀ v⟩."""
    posterior = Posterior(Dense(CHAINS["vp"]), measurement, torch.zeros(1, dtype=torch.float64))
    x = normal(3, *SHAPE, seed=seed)
    v = normal(*measurement(x).shape, seed=seed + 1)
    back = posterior._adjoint(v, x)
    torch.testing.assert_close((measurement(x) * v).sum(), (x * back).sum(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back.reshape(3, -1), v.reshape(3, -1) @ matrix(measurement), rtol=0, atol=1e-12)


def test_masking_keeps_what_the_mask_says_in_any_type():
    x = normal(2, 3, 4, 4)
    mask = torch.tensor([[1, 0, 0, 1]], dtype=torch.int64)
    kept = Masked(mask)(x)
    assert torch.equal(kept[..., 0], x[..., 0])
    assert torch.equal(kept[..., 3], x[..., 3])
    assert not bool(kept[..., 1:3].any())


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_downsampling_is_the_mean_of_blocks(factor):
    x = normal(2, 3, 8, 8)
    blocks = x.numpy().reshape(2, 3, 8 // factor, factor, 8 // factor, factor).mean((3, 5))
    np.testing.assert_allclose(Downsampled(factor)(x).numpy(), blocks, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("deviation", [0.2, 0.8, 1.5, 3.0])
def test_blurring_is_scipy_s_gaussian_filter(deviation):
    x = normal(2, 3, 12, 10)
    radius = max(1, round(3 * deviation))
    expected = ndimage.gaussian_filter(x.numpy(), deviation, mode="nearest", radius=radius, axes=(2, 3))
    np.testing.assert_allclose(Blurred(deviation)(x).numpy(), expected, rtol=1e-10, atol=1e-12)


class Dense(Denoiser):
    """E[x_0 | x_t] of N(m, C), C of all the pixels: neighbours are alike."""

    def __init__(self, chain, shape=SHAPE):
        self.chain, self.variance, self.shape = chain, FixedLarge(), shape
        n = math.prod(shape)
        at = torch.arange(n, dtype=torch.float64)
        self.m = 0.3 * torch.cos(at)
        self.C = 0.2 * torch.exp(-0.3 * (at[:, None] - at).abs()) + 0.02 * torch.eye(n, dtype=torch.float64)

    def __call__(self, x_t, t):
        alpha, sigma = float(t.alpha), float(t.sigma)
        gain = alpha * self.C @ torch.linalg.inv(alpha**2 * self.C + sigma**2 * torch.eye(len(self.C)))
        flat = self.m + (x_t.flatten(1) - alpha * self.m) @ gain.T
        return prediction_from_x_0(flat.reshape(x_t.shape), x_t, t)

    def given(self, x_t, t, A, y, noise):
        """E[x_0 | x_t, y] and the covariance, by Bayes' rule: precisions add up."""
        ratio = float(t.alpha / t.sigma) ** 2
        precision = torch.linalg.inv(self.C) + ratio * torch.eye(len(self.C)) + A.T @ A / noise**2
        data = torch.linalg.inv(self.C) @ self.m + y.flatten(1) @ A / noise**2
        seen = float(t.alpha) / float(t.sigma) ** 2 * x_t.flatten(1)
        return (data + seen) @ torch.linalg.inv(precision), torch.linalg.inv(precision)


@of_chain
@of_measurement
@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_for_gaussian_data_the_posterior_mean_is_bayes_rule(chain, measurement, noise):
    denoiser = Dense(chain)
    y = measurement(normal(3, *SHAPE, seed=5)) + noise * normal(*measurement(normal(3, *SHAPE)).shape, seed=6)
    posterior = Posterior(denoiser, measurement, y, noise, iterations=40)
    for k in (1, 50, 300, 700, 999):
        t = chain.levels[k]
        x_t = t.noise(0.5 * normal(3, *SHAPE, seed=7), normal(3, *SHAPE, seed=8))
        expected, _ = denoiser.given(x_t, t, matrix(measurement), y, noise)
        with torch.inference_mode():
            found = posterior(x_t.clone(), t)
        assert not found.x_0.requires_grad
        torch.testing.assert_close(found.x_0.flatten(1), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(t.noise(found.x_0, found.eps), x_t, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            assert torch.equal(posterior(x_t, t).x_0, found.x_0)


def test_one_measurement_serves_a_whole_batch():
    denoiser, measurement, chain = Dense(CHAINS["vp"]), Downsampled(2), CHAINS["vp"]
    y, x_t, t = normal(1, 1, 2, 2, seed=5), normal(3, *SHAPE, seed=7), chain.levels[400]
    found = Posterior(denoiser, measurement, y, 0.1, iterations=40)(x_t, t).x_0
    expected, _ = denoiser.given(x_t, t, matrix(measurement), y.expand(3, 1, 2, 2), 0.1)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-6, atol=1e-6)


@of_measurement
def test_an_image_s_correction_does_not_depend_on_its_batch(measurement):
    """Also where the conjugate gradients are far from their end."""
    chain, t = CHAINS["vp"], CHAINS["vp"].levels[400]
    y, x_t = measurement(normal(3, *SHAPE, seed=5)), normal(3, *SHAPE, seed=7)
    together = Posterior(Dense(chain), measurement, y, 0.05, iterations=2)(x_t, t).x_0
    for row in range(3):
        part = slice(row, row + 1)
        apart = Posterior(Dense(chain), measurement, y[part], 0.05, iterations=2)(x_t[part], t).x_0
        torch.testing.assert_close(together[part], apart, rtol=1e-10, atol=1e-10)


@of_chain
@pytest.mark.parametrize("name", ["masked", "downsampled"])
def test_few_iterations_are_enough_where_the_measurement_has_few_eigenvalues(chain, name):
    """Conjugate gradients end after as many steps: two for a mask and independent pixels, one for means of blocks."""
    data = gaussian_data(torch.full(SHAPE, 0.2, dtype=torch.float64), 0.3)
    denoiser, measurement, t = ExactDenoiser(data, chain, FixedSmall()), MEASUREMENTS[name], chain.levels[500]
    y, x_t = measurement(normal(3, *SHAPE, seed=5)), t.noise(normal(3, *SHAPE, seed=7), normal(3, *SHAPE, seed=8))
    steps = 2 if name == "masked" else 1
    found, more = (Posterior(denoiser, measurement, y, 0.1, iterations=n)(x_t, t).x_0 for n in (steps, 40))
    torch.testing.assert_close(found, more, rtol=1e-10, atol=1e-10)


def mixture(shape):
    n = math.prod(shape)
    means = torch.stack([0.6 * normal(n, seed=seed).tanh() for seed in (1, 2, 3)]).reshape(3, *shape)
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3]), means, torch.tensor([0.05, 0.1, 0.02]))


@of_chain
@of_measurement
def test_for_a_mixture_the_correction_has_the_covariance_that_x_0_has_given_x_t(chain, measurement):
    """x̂_0 + V Aᵀ (sigma_y² I + A V Aᵀ)⁻¹ (y - A x̂_0), V not by differentiation but from the mixture of x_0 | x_t."""
    data, A = mixture(SHAPE), matrix(measurement)
    denoiser = ExactDenoiser(data, chain, FixedSmall())
    y = measurement(normal(4, *SHAPE, seed=5))
    posterior = Posterior(denoiser, measurement, y, 0.2, iterations=40)
    for k in (30, 300, 600, 900):
        t = chain.levels[k]
        x_t = t.noise(data.sample(4, torch.Generator().manual_seed(k)), normal(4, *SHAPE, seed=8))
        given, found = data.data_given(x_t, t), posterior(x_t, t).x_0
        for row in range(4):
            weights, means = given.log_weights[row].exp(), given.means[row].flatten(1)
            mean = weights @ means
            around = means - mean
            spread = torch.eye(16, dtype=torch.float64) * (weights @ given.variances[row])
            V_ = spread + around.T @ (weights[:, None] * around)
            inside = 0.04 * torch.eye(len(A), dtype=torch.float64) + A @ V_ @ A.T
            expected = mean + V_ @ A.T @ torch.linalg.solve(inside, y[row].flatten() - A @ mean)
            torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-6, atol=1e-6)


@of_chain
@of_measurement
def test_the_isotropic_correction_is_that_of_pigdm(chain, measurement):
    """V = sigma² / (alpha² + sigma²) I (Song et al. 2023), whatever the denoiser's Jacobian is."""
    denoiser, A = Dense(chain), matrix(measurement)
    y = measurement(normal(3, *SHAPE, seed=5))
    posterior = Posterior(denoiser, measurement, y, 0.2, covariance="isotropic", iterations=40)
    # At T as well, where a flow has no signal.
    for k in (1, 200, 500, 900, 1000):
        t = chain.levels[k]
        x_t = t.noise(normal(3, *SHAPE, seed=7), normal(3, *SHAPE, seed=8))
        v = float(t.sigma**2 / (t.alpha**2 + t.sigma**2))
        mean = denoiser(x_t, t).x_0.flatten(1)
        inside = 0.04 * torch.eye(len(A), dtype=torch.float64) + v * A @ A.T
        expected = mean + v * torch.linalg.solve(inside, (y.flatten(1) - mean @ A.T).T).T @ A
        torch.testing.assert_close(posterior(x_t, t).x_0.flatten(1), expected, rtol=1e-6, atol=1e-6)


@of_chain
@of_measurement
@pytest.mark.parametrize("covariance", ["tweedie", "isotropic"])
def test_for_unit_normal_data_both_are_exact_on_every_level(chain, measurement, covariance):
    """Also where there is no signal: the prior is the posterior of x_T then, and what is known is y alone."""
    data = gaussian_data(torch.zeros(SHAPE, dtype=torch.float64), 1.0)
    denoiser, A = ExactDenoiser(data, chain, FixedSmall()), matrix(measurement)
    y = measurement(normal(3, *SHAPE, seed=5))
    posterior = Posterior(denoiser, measurement, y, 0.3, covariance=covariance, iterations=40)
    for k in (100, 600, 1000):
        t = chain.levels[k]
        x_t = t.noise(normal(3, *SHAPE, seed=7), normal(3, *SHAPE, seed=8))
        precision = (1 + float(t.snr)) * torch.eye(16, dtype=torch.float64) + A.T @ A / 0.09
        seen = y.flatten(1) @ A / 0.09 + float(t.alpha) / float(t.sigma) ** 2 * x_t.flatten(1)
        expected = torch.linalg.solve(precision, seen.T).T
        torch.testing.assert_close(posterior(x_t, t).x_0.flatten(1), expected, rtol=1e-6, atol=1e-6)


@of_chain
@pytest.mark.parametrize(
    ("measurement", "stepper"),
    [
        (Masked(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), UniPC(3)),
        (Downsampled(2), DPMSolver(3)),
        (Blurred(0.6), Heun()),
    ],
    ids=["masked", "downsampled", "blurred"],
)
def test_samples_of_a_gaussian_posterior_have_its_mean_and_covariance(chain, measurement, stepper):
    """The sampler is affine in the noise it begins with: four rows of one 1 each tell the covariance of all samples."""
    shape = (1, 2, 2)
    denoiser, grid = Dense(chain, shape), log_snr(chain, 150)
    y = measurement(normal(1, *shape, seed=5))
    posterior = Posterior(denoiser, measurement, y, 0.3, iterations=10)
    start = torch.cat([torch.zeros(1, 4), torch.eye(4)]).double().reshape(5, *shape)
    start = start * float(grid.prior_variance.sqrt())
    *_, state = sampling_states(posterior, None, grid, stepper, start)
    rows = state.x.flatten(1)
    A, C = matrix(measurement, shape), torch.linalg.inv(denoiser.C)
    covariance = torch.linalg.inv(C + A.T @ A / 0.09)
    mean = (C @ denoiser.m + y.flatten() @ A / 0.09) @ covariance
    of_each = rows[1:] - rows[0]
    torch.testing.assert_close(rows[0], mean, rtol=0, atol=0.01)
    torch.testing.assert_close(of_each.T @ of_each, covariance, rtol=0, atol=0.02 * float(covariance.max()))


@pytest.mark.parametrize(("pixel", "noise"), [(-0.4, 0.1), (0.1, 0.1), (-0.4, 0.3), (0.1, 0.3)])
def test_inpainting_a_mixture_chooses_its_components_nearly_as_bayes_rule_does(pixel, noise):
    """w_k N(y; m_k, v_k + sigma_y²), over their sum, is the truth; the Gaussian in the place of x_0 | x_t is not exact.

    So the weights are off, by up to 0.13 here, and by more with the isotropic covariance.
    """
    weights, variances = torch.tensor([0.3, 0.7]).double(), torch.tensor([0.05, 0.08]).double()
    means = torch.tensor([[-0.6, 0.4], [0.5, -0.3]], dtype=torch.float64).reshape(2, 1, 1, 2)
    chain, data = CHAINS["vp"], GaussianMixture(weights, means, variances)
    spread = variances + noise**2
    truth = weights * (-0.5 * (pixel - means[:, 0, 0, 0]).square() / spread).exp() / spread.sqrt()
    truth = truth / truth.sum()
    uniform = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(1024, dtype=torch.float64)
    start = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).reshape(1024, 1, 1, 2)
    off = {}
    for covariance in ("tweedie", "isotropic"):
        posterior = Posterior(
            ExactDenoiser(data, chain, FixedSmall()),
            Masked(torch.tensor([1.0, 0.0])),
            torch.tensor([pixel, 0.0]).reshape(1, 1, 1, 2),
            noise,
            covariance=covariance,
            iterations=2,
        )
        *_, state = sampling_states(posterior, None, log_snr(chain, 50), Heun(), start)
        share = data.data_given(state.x, chain.levels[1]).log_weights.exp()
        off[covariance] = abs(float(share[:, 0].mean() - truth[0]))
        if covariance == "tweedie":
            # Within a component the other pixel is independent of the one that was measured; here nearly so.
            for k in (0, 1):
                if float(truth[k]) > 0.1:
                    mean = (share[:, k] * state.x[:, 0, 0, 1]).sum() / share[:, k].sum()
                    assert float(mean) == pytest.approx(float(means[k, 0, 0, 1]), abs=0.15)
    assert off["tweedie"] < 0.13
    assert off["tweedie"] < 0.65 * off["isotropic"]


class Doubling(nn.Module):
    """Two channels for one; what it says of v makes the Jacobian of x_0 symmetric and positive, as an exact one is."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        kernel = torch.tensor([[0.0, -0.05, 0.0], [-0.05, -0.5, -0.05], [0.0, -0.05, 0.0]])
        self.convolution.weight.data.copy_(torch.stack([kernel, 0.3 * kernel.roll(1)])[:, None])

    def forward(self, x, time):
        return self.convolution(x)


@pytest.mark.parametrize("covariance", ["tweedie", "isotropic"])
def test_a_network_is_left_as_it_is_and_its_type_and_extra_channels_are_kept(covariance):
    network, chain = Doubling(), linear(100)
    denoiser = NetworkDenoiser(network, chain, V(), FixedLarge())
    y = Downsampled(2)(normal(2, 1, 8, 8, seed=1).float())
    posterior = Posterior(denoiser, Downsampled(2), y, 0.1, covariance=covariance)
    x_t = normal(2, 1, 8, 8, seed=2).float()
    with torch.inference_mode():
        found = posterior(x_t, chain.levels[60])
        plain = denoiser(x_t, chain.levels[60])
    assert found.x_0.dtype == torch.float32
    torch.testing.assert_close(found.extra, plain.extra)
    assert not found.extra.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert posterior.chain is chain
    assert posterior.variance is denoiser.variance
    # Nearer to what was measured than without it.
    before, after = (float((Downsampled(2)(each.x_0) - y).norm()) for each in (plain, found))
    assert after < 0.9 * before


def test_samples_of_the_posterior_agree_with_the_measurement_to_its_noise():
    """Without noise to speak of, the known pixels of a sample are what was measured, on every sampler's way."""
    chain, shape = CHAINS["vp"], (1, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    y = mask.double() * normal(1, *shape, seed=5)
    for stepper in (DDIM(), UniPC(2)):
        posterior = Posterior(Dense(chain, shape), Masked(mask), y, 0.01, iterations=20)
        *_, state = sampling_states(posterior, None, log_snr(chain, 60), stepper, normal(50, *shape, seed=3))
        assert float((state.x * mask - y).abs().max()) < 0.05
        assert float(state.x[:, 0, :, 1].std(0).min()) > 0.1


@pytest.mark.parametrize(("noise", "iterations"), [(0.0, 5), (-0.1, 5), (0.1, 0)])
def test_a_posterior_that_cannot_be_is_refused_in_a_sentence(noise, iterations):
    with pytest.raises(InputError, match=rf"noise above zero.* not {noise} and {iterations}\.$"):
        Posterior(Dense(CHAINS["vp"]), Downsampled(2), torch.zeros(1, 1, 2, 2), noise, iterations=iterations)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 1, 2, 2), (1, 1, 1, 2, 2), (2, 2, 2)])
def test_a_measurement_of_another_shape_is_refused_in_a_sentence(shape):
    chain = CHAINS["vp"]
    posterior = Posterior(Dense(chain, (1, 4, 4)), Downsampled(2), torch.zeros(shape), 0.1)
    with pytest.raises(InputError, match=r"has shape \(2, 1, 2, 2\), and y has \("):
        posterior(torch.zeros(2, 1, 4, 4, dtype=torch.float64), chain.levels[20])


def test_blocks_that_do_not_divide_an_image_are_refused_in_a_sentence():
    with pytest.raises(InputError, match="4 × 5 cannot be divided into blocks of 2 × 2"):
        Downsampled(2)(torch.zeros(1, 1, 4, 5))
