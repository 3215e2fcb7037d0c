"""The bound: closed forms for Gaussian data, exact tails, an independent implementation, unbiased estimates."""

import math

import numpy as np
import pytest
import torch
from stand_ins import exact_log_mass, pixels
from torch import Tensor, nn

from clearwater import (
    X0,
    Clipped,
    Eps,
    FixedLarge,
    FixedSmall,
    Gaussian,
    InputError,
    Mean,
    NetworkDenoiser,
    Score,
    UNet,
    V,
    Velocity,
    chain,
)
from clearwater.analytic import ExactDenoiser, gaussian_data
from clearwater.bound_estimate import estimate_bound
from clearwater.chains import Chain
from clearwater.decoders import Decoder, DensityDecoder, DiscretizedDecoder
from clearwater.levels import Level
from clearwater.likelihood import (
    bound,
    prior_term,
    step_term,
)
from clearwater.optimal_variance import fit_optimal_variance
from clearwater.schedules import VP
from clearwater.targets import Prediction, Target, prediction_from_x_0
from clearwater.variances import LearnedRange, LevelVariance, Optimal

M, S2 = 0.2, 0.3  # data N(0.2, 0.3)
DATA = gaussian_data(torch.full((1,), M, dtype=torch.float64), S2)
IMAGES = gaussian_data(torch.full((1, 4, 4), M, dtype=torch.float64), S2)
LINEAR = chain("linear")


def quadratic_points() -> tuple[Tensor, Tensor]:
    """x_0 and eps over which the mean of any quadratic is its exact expectation: each at ± one deviation."""
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    return M + math.sqrt(S2) * signs[:, :1], signs[:, 1:]


def exact_error(levels: Chain) -> Tensor:
    """E(x_0 - E[x_0 | x_t])² at levels 1..T of these data."""
    alpha, sigma = levels.levels.alpha[1:], levels.levels.sigma[1:]
    return S2 * sigma**2 / (alpha**2 * S2 + sigma**2)


def expected_terms(levels: Chain, variance: LevelVariance) -> Tensor:
    """The expected term of each step with the exact mean and the density decoder, in nats."""
    pairs = levels.pairs
    v_p = variance(pairs)
    error = pairs.c_0**2 * exact_error(levels)
    kl = 0.5 * ((v_p / pairs.posterior_variance).log() - 1 + pairs.posterior_variance / v_p + error / v_p)
    kl[0] = 0.5 * ((2 * math.pi * v_p[0]).log() + error[0] / v_p[0]) - math.log(2 / 255)
    return kl


@pytest.mark.parametrize("levels", [LINEAR, LINEAR.strided(25), chain("cosine", 100)], ids=["1000", "25", "cosine"])
@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge()], ids=["small", "large"])
def test_every_term_of_gaussian_data_is_its_closed_form(levels: Chain, variance: LevelVariance) -> None:
    denoiser = ExactDenoiser(DATA, levels, variance)
    x_0, eps = quadratic_points()
    terms = []
    for k in range(1, levels.T + 1):
        pair = levels.pair(k)
        x_t = pair.t.noise(x_0, eps)
        terms.append(step_term(x_0, x_t, denoiser.reverse(x_t, pair), pair, DensityDecoder()).mean())
    torch.testing.assert_close(torch.stack(terms), expected_terms(levels, variance), rtol=1e-9, atol=1e-14)


def test_the_prior_term_is_its_closed_form() -> None:
    x_0, _ = quadratic_points()
    alpha_bar = float(LINEAR.alpha_bar[-1])
    by_hand = 0.5 * (alpha_bar * (M**2 + S2) - alpha_bar - math.log1p(-alpha_bar))
    assert float(prior_term(x_0, LINEAR).mean()) == pytest.approx(by_hand, rel=1e-9)


def test_the_optimal_variance_is_that_of_the_exact_reverse_process() -> None:
    for levels in (LINEAR, LINEAR.strided(10)):
        optimal = Optimal(LINEAR.levels.time[1:], exact_error(LINEAR))
        x_t = torch.zeros(1, 1, dtype=torch.float64)
        for k in range(2, levels.T + 1):
            truth = DATA.reverse(x_t, levels.pair(k)).moments().variance
            assert float(optimal(levels.pair(k))) == pytest.approx(float(truth), rel=1e-9)


def test_no_other_variance_beats_the_optimal_one() -> None:
    levels = LINEAR.strided(20)
    best = expected_terms(levels, Optimal(LINEAR.levels.time[1:], exact_error(LINEAR)))
    for factor in (0.8, 1.25):
        other = expected_terms(levels, _Scaled(Optimal(LINEAR.levels.time[1:], exact_error(LINEAR)), factor))
        assert bool((other > best).all())


class _Scaled(LevelVariance):
    def __init__(self, variance: LevelVariance, factor: float) -> None:
        self.variance, self.factor = variance, factor

    def __call__(self, pair):  # type: ignore[no-untyped-def]
        return self.variance(pair) * self.factor


def test_the_optimal_variance_is_measured_without_bias() -> None:
    data = gaussian_data(torch.full((1, 8, 8), M, dtype=torch.float64), S2)
    x_0 = data.sample(2000, torch.Generator().manual_seed(0))
    levels = chain("linear").strided(20)
    fitted = fit_optimal_variance(ExactDenoiser(data, levels, FixedSmall()), x_0, images=500)
    # 500 · 64 squared normal errors: relative standard error √(2/32000) < 1%
    torch.testing.assert_close(fitted.error, exact_error(levels), rtol=0.04, atol=0)


def _from_one_hundredth(T: int) -> Chain:
    """VP levels from t = 0.01 to 1, with data before them: the same range of noise for every T."""
    return Chain(VP()(torch.cat([torch.zeros(1), torch.linspace(0.01, 1, T, dtype=torch.float64)])))


def test_the_bound_falls_towards_the_continuous_one_from_above() -> None:
    totals = [float(expected_terms(_from_one_hundredth(T), FixedSmall())[1:].sum()) for T in (50, 200, 800, 3200)]
    # The limit: ½ ∫ SNR · E(x_0 - x̂_0)² d(log SNR) (Kingma et al. 2021, eq. 13).
    fine = _from_one_hundredth(100_000)
    integrand = 0.5 * fine.levels.snr[1:] * exact_error(fine)
    limit = float(-torch.trapezoid(integrand, fine.levels.log_snr[1:]))
    gaps = [total - limit for total in totals]
    assert all(gap > 0 for gap in gaps)
    # First order: a fourth of the step, about a fourth of the gap.
    assert gaps[2] / gaps[3] == pytest.approx(4, rel=0.1)
    assert gaps == sorted(gaps, reverse=True)


class _Says(nn.Module):
    """A network that is exact for the data, in the words of a target."""

    def __init__(self, target: Target, levels: Chain) -> None:
        super().__init__()
        self.target, self.levels = target, levels
        self.exact = ExactDenoiser(IMAGES, levels, FixedSmall())

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = self.levels.levels[(time * self.levels.T).round().long()]
        prediction = self.exact(x, t)
        return self.target.value(prediction.x_0, prediction.eps, t)


def test_the_bound_is_the_same_for_all_six_targets() -> None:
    levels = chain("linear", 100)
    totals = [
        bound(NetworkDenoiser(_Says(target, levels), levels, target, FixedSmall()), pixels(5)).per_image
        for target in (Eps(), X0(), V(), Score(), Velocity(), Mean(levels))
    ]
    for other in totals[1:]:
        torch.testing.assert_close(other, totals[0], rtol=1e-9, atol=0)


def _oracle(
    network: UNet, x_0: np.ndarray, x_t: np.ndarray, k: int, rule: str, betas: np.ndarray, clip: bool = True
) -> np.ndarray:
    """One term by the formulas of the papers, with tables of beta, in nats per image (Ho et al. 2020, eqs. 6-13).

    `rule` is small, large, or range: between them by extra channels that say from -1 to 1 (Nichol & Dhariwal 2021,
    eq. 15), where only the smaller end has another value at k = 1.
    """
    alpha_bar = np.cumprod(1 - betas)
    before = np.append(1.0, alpha_bar[:-1])
    posterior_variance = betas * (1 - before) / (1 - alpha_bar)
    log_small = np.log(np.append(posterior_variance[1], posterior_variance[1:]))
    i = k - 1
    precision = next(network.parameters()).dtype
    time = torch.full((len(x_0),), k / len(betas), dtype=precision)
    with torch.no_grad():
        said = network(torch.from_numpy(x_t).to(precision), time).double().numpy()
    if rule == "range":
        said, values = np.split(said, 2, axis=1)
        fraction = (values + 1) / 2
        log_p = fraction * np.log(betas[i]) + (1 - fraction) * log_small[i]
    else:
        log_large = np.log(np.append(posterior_variance[1], betas[1:]))
        log_p = np.full(x_0.shape, (log_large if rule == "large" else log_small)[i])
    predicted = np.sqrt(1 / alpha_bar[i]) * x_t - np.sqrt(1 / alpha_bar[i] - 1) * said
    if clip:
        predicted = np.clip(predicted, -1, 1)
    c_0 = betas[i] * np.sqrt(before[i]) / (1 - alpha_bar[i])
    c_t = (1 - before[i]) * np.sqrt(1 - betas[i]) / (1 - alpha_bar[i])
    true_mean, mean = c_0 * x_0 + c_t * x_t, c_0 * predicted + c_t * x_t
    log_q = log_small[i]
    if k > 1:
        kl = 0.5 * (-1 + log_p - log_q + np.exp(log_q - log_p) + (true_mean - mean) ** 2 * np.exp(-log_p))
        return kl.reshape(len(x_0), -1).sum(1)
    bins = [
        exact_log_mass(float(x), float(m), math.exp(0.5 * float(log)))
        for x, m, log in zip(x_0.flat, mean.flat, log_p.flat, strict=True)
    ]
    return -np.array(bins).reshape(len(x_0), -1).sum(1)


def _random_unet(channels: int) -> UNet:
    torch.manual_seed(0)
    network = UNet(1, 16, (1, 2), 1, (), group_size=16, dropout=0.0, out_channels=channels)
    nn.init.normal_(network.last.weight, std=0.3)
    return network.eval()


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_every_term_of_a_random_network_is_that_of_an_independent_implementation(large: bool) -> None:
    network = _random_unet(1)
    variance = FixedLarge() if large else FixedSmall()
    denoiser = Clipped(NetworkDenoiser(network, LINEAR, Eps(), variance))
    x_0 = pixels(3, (1, 6, 6))
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    betas = np.linspace(1e-4, 0.02, 1000)
    for k in (1, 2, 3, 10, 349, 999, 1000):
        pair = LINEAR.pair(k)
        alpha_bar = np.cumprod(1 - betas)[k - 1]
        x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * eps
        with torch.no_grad():
            ours = step_term(x_0, x_t, denoiser.reverse(x_t, pair), pair, DiscretizedDecoder())
        theirs = _oracle(network, x_0.numpy(), x_t.numpy(), k, "large" if large else "small", betas)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5)


class _Recording(nn.Module):
    """Another network, and all that it is fed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.fed: list[tuple[np.ndarray, float]] = []

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.fed.append((x.numpy(), float(time[0])))
        said: Tensor = self.network(x, time)
        return said


@pytest.mark.parametrize("clip", [True, False], ids=["clipped", "free"])
def test_every_term_of_a_random_learned_range_is_that_of_an_independent_implementation(clip: bool) -> None:
    network, levels, x_0 = _random_unet(2).double(), chain("linear", 50), pixels(3, (1, 6, 6))
    recording = _Recording(network)
    free = NetworkDenoiser(recording, levels, Eps(), LearnedRange())
    ours = bound(Clipped(free) if clip else free, x_0)
    betas = np.linspace(20 * 1e-4, 20 * 0.02, 50)
    theirs = []
    for k, (x_t, time) in enumerate(recording.fed, 1):
        assert time == pytest.approx(k / 50, rel=1e-14)
        theirs.append(_oracle(network, x_0.numpy(), x_t, k, "range", betas, clip) / (36 * math.log(2)))
    np.testing.assert_allclose(ours.kl.numpy(), np.stack(theirs[1:]).mean(1), rtol=1e-9)
    np.testing.assert_allclose(ours.rate.numpy(), np.stack(theirs[1:]).sum(0), rtol=1e-9)
    np.testing.assert_allclose(ours.decoder.numpy(), theirs[0], rtol=1e-9)


@pytest.mark.parametrize("shape", [(5, 1, 4, 4), (5, 1, 1, 1), (1, 1, 1, 1)], ids=["pixel", "image", "all"])
@pytest.mark.parametrize("decoder", [DiscretizedDecoder(), DensityDecoder()], ids=["discretized", "density"])
def test_the_terms_of_a_mixed_batch_are_those_of_its_images_one_by_one(
    shape: tuple[int, ...], decoder: Decoder
) -> None:
    """Steps to data and above it, in any order, with a variance for each pixel, each image, or all."""
    levels, x_0, rng = chain("cosine", 30), pixels(5), torch.Generator().manual_seed(3)
    mean = torch.randn(x_0.shape, generator=rng, dtype=torch.float64) / 5
    variance = torch.rand(shape, generator=rng, dtype=torch.float64) + 0.01
    for order in ([1, 7, 30, 1, 2], [3, 1, 1, 2, 1], [1, 1, 1, 1, 1], [2, 3, 4, 5, 30]):
        pair = levels.pair(torch.tensor(order))
        x_t = pair.t.noise(x_0, torch.randn(x_0.shape, generator=rng, dtype=torch.float64))
        together = step_term(x_0, x_t, Gaussian(mean, variance), pair, decoder)
        assert together.shape == (5,)
        for i, k in enumerate(order):
            own = slice(i, i + 1)
            of_image = Gaussian(mean[own], variance[own] if shape[0] == 5 else variance)
            alone = step_term(x_0[own], x_t[own], of_image, levels.pair(k), decoder)
            torch.testing.assert_close(together[own], alone, rtol=1e-13, atol=0)


def test_total_is_the_sum_of_its_terms() -> None:
    denoiser = ExactDenoiser(
        gaussian_data(torch.full((1, 4, 4), M, dtype=torch.float64), S2), LINEAR.strided(10), FixedLarge()
    )
    result = bound(denoiser, pixels(6))
    assert float(result.rate.mean()) == pytest.approx(float(result.kl.sum()), rel=1e-12)
    assert result.total == pytest.approx(
        float(result.prior.mean()) + float(result.kl.sum()) + float(result.decoder.mean()), rel=1e-12
    )
    assert result.evaluations == 60


@pytest.mark.parametrize("off", [0.001, 1.0])
def test_data_off_the_8_bit_grid_are_refused(off: float) -> None:
    denoiser = ExactDenoiser(
        gaussian_data(torch.full((1, 4, 4), M, dtype=torch.float64), S2), LINEAR.strided(10), FixedLarge()
    )
    with pytest.raises(InputError, match="8-bit"):
        bound(denoiser, pixels(2) + off)


def test_float32_pixels_are_on_the_grid() -> None:
    denoiser = ExactDenoiser(
        gaussian_data(torch.full((1, 4, 4), M, dtype=torch.float64), S2), LINEAR.strided(10), FixedLarge()
    )
    torch.testing.assert_close(
        bound(denoiser, pixels(2).float()).per_image, bound(denoiser, pixels(2)).per_image, rtol=0, atol=0
    )


def test_clipping_the_predictions_of_an_untrained_network_lowers_its_bound() -> None:
    """x_0 lies in [-1, 1], so clipping brings every prediction nearer to it, and each term falls or stays."""
    torch.manual_seed(0)
    network = UNet(1, 16, (1,), 1, (), group_size=16, dropout=0.0)
    nn.init.normal_(network.last.weight, std=0.3)
    denoiser = NetworkDenoiser(network.eval(), LINEAR.strided(10), Eps(), FixedSmall())
    x_0 = pixels(3)
    clipped, free = bound(Clipped(denoiser), x_0), bound(denoiser, x_0)
    assert bool((clipped.kl <= free.kl).all())
    assert clipped.total < free.total


def test_no_other_variance_serves_the_discretized_decoder_better_than_the_fitted_one() -> None:
    """Images whose black pixels are predicted to be black: their open bins leave the variance to the others."""
    black = torch.zeros(200, 1, 6, 6, dtype=torch.float64) - 1
    black[:, :, 2:4, 2:4] = (
        2 * torch.randint(0, 256, (200, 1, 2, 2), generator=torch.Generator().manual_seed(1)) / 255 - 1
    )
    levels = chain("cosine", 50).strided(5)

    class Guess(ExactDenoiser):
        """Black outside the square and grey in it."""

        def __call__(self, x_t: Tensor, t: Level) -> Prediction:
            x_0 = torch.full_like(x_t, -1)
            x_0[:, :, 2:4, 2:4] = 0
            return prediction_from_x_0(x_0, x_t, t)

    denoiser = Guess(IMAGES, levels, FixedSmall())
    fitted = fit_optimal_variance(denoiser, black, images=200)
    assert fitted.decoder is not None
    first = levels.pair(1)
    x_t = first.t.noise(black, torch.zeros_like(black))

    def cost(v: float) -> float:
        reverse = Gaussian(denoiser(x_t, first.t).x_0, torch.full((1, 1, 1, 1), v, dtype=torch.float64))
        return float(step_term(black, x_t, reverse, first, DiscretizedDecoder()).mean())

    best = float(fitted(first))
    assert best == pytest.approx(float(fitted.decoder[0]), rel=1e-9)
    assert cost(best) < min(cost(best / 2), cost(best * 2))  # nearer, it is a matter of the images drawn
    assert cost(best) < cost(float(fitted.error[0]))


def test_a_bound_says_what_was_evaluated() -> None:
    denoiser = ExactDenoiser(IMAGES, LINEAR, FixedLarge())
    x_0 = torch.zeros(2, 1, 4, 4, dtype=torch.float64) + 1 / 255
    for found in (
        bound(denoiser, x_0, chain=LINEAR.strided(3), decoder=DensityDecoder()),
        estimate_bound(denoiser, x_0, 30, chain=LINEAR.strided(100), decoder=DensityDecoder()),
    ):
        said = {"weights": "given", "variance": "FixedLarge", "clipped": False, "decoder": "DensityDecoder"}
        assert found.evaluated == said
    clipped = bound(Clipped(denoiser), x_0, chain=LINEAR.strided(3))
    assert (clipped.evaluated["clipped"], clipped.evaluated["decoder"]) == (True, "DiscretizedDecoder")
