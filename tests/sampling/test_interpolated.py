"""Between two encoded images: their straight line, their noises' arc, and what a decoder makes of it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.analytic import ExactDenoiser, gaussian_data
from clearwater.chains import Chain
from clearwater.errors import InputError
from clearwater.sampling import AdaptiveODE, Encoded, Heun, encode, interpolate_encoded, log_snr, sampling_states
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.variances import FixedSmall

CHAINS = {
    "vp": Chain.from_schedule(VP(), 200),
    "ve": Chain.from_schedule(VE(sigma_max=20.0), 200),
    "flow": Chain.from_schedule(RectifiedFlow(), 200),
}
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
of_level = pytest.mark.parametrize("k", [1, 70, 199, 200])
SHAPE = (1, 16, 16)


def normal(n, seed, shape=SHAPE):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ends(level, n=3):
    """Two sets of images with independent noises, and these noises."""
    images, noises = [0.5 * normal(n, seed) for seed in (1, 2)], [normal(n, seed) for seed in (3, 4)]
    return [Encoded(x, level.noise(x, eps), level) for x, eps in zip(images, noises, strict=True)], noises


def noise_of(x_t, x_0, level):
    return (x_t - float(level.alpha) * x_0) / float(level.sigma)


@of_chain
@of_level
def test_the_weights_0_and_1_give_the_ends(chain, k):
    level = chain.levels[k]
    (a, b), _ = ends(level)
    size = float(level.alpha + level.sigma)
    torch.testing.assert_close(interpolate_encoded(a, b, 0.0), a.x_t, rtol=0, atol=1e-12 * size)
    torch.testing.assert_close(interpolate_encoded(a, b, 1.0), b.x_t, rtol=0, atol=1e-12 * size)
    torch.testing.assert_close(interpolate_encoded(a, a, 0.3), a.x_t, rtol=0, atol=1e-12 * size)


@of_chain
@of_level
def test_what_is_not_image_is_noise_of_deviation_1(chain, k):
    level = chain.levels[k]
    (a, b), noises = ends(level)
    for end, eps in zip((a, b), noises, strict=True):
        torch.testing.assert_close(end.eps, eps, rtol=0, atol=1e-12 / float(level.sigma))


@of_chain
@given(weight=st.floats(0, 1), k=st.sampled_from([1, 40, 120, 199]))
def test_the_image_goes_along_the_straight_line_and_the_noise_keeps_its_length(chain, weight, k):
    """Noises of one length: then the arc is of that length, and its ends' angle is shared out by the weight."""
    level = chain.levels[k]
    (a, b), (eps_a, eps_b) = ends(level)
    eps_b = eps_b * (eps_a.flatten(1).norm(dim=1) / eps_b.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
    b = Encoded(b.x_0, level.noise(b.x_0, eps_b), level)
    line = (1 - weight) * a.x_0 + weight * b.x_0
    eps = noise_of(interpolate_encoded(a, b, weight), line, level).flatten(1)
    lengths = eps_a.flatten(1).norm(dim=1)
    torch.testing.assert_close(eps.norm(dim=1), lengths, rtol=1e-9, atol=1e-9)
    ways = [torch.nn.functional.cosine_similarity(eps, end.flatten(1)).clamp(-1, 1).acos() for end in (eps_a, eps_b)]
    torch.testing.assert_close(ways[0], weight * (ways[0] + ways[1]), rtol=0, atol=1e-6)


@of_chain
def test_between_independent_noises_the_spread_is_that_of_the_level(chain):
    """Along the straight line the noise would have √(w² + (1 - w)²) of it: 0.71 in the middle."""
    level = chain.levels[120]
    (a, b), _ = ends(level, n=40)
    for weight in (0.1, 0.3, 0.5, 0.8):
        line = torch.lerp(a.x_0, b.x_0, weight)
        eps = noise_of(interpolate_encoded(a, b, weight), line, level)
        assert float(eps.square().mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / eps.numel()))


@of_chain
def test_the_same_way_is_gone_from_the_other_end(chain):
    (a, b), _ = ends(chain.levels[90])
    for weight in (0.2, 0.5, 0.9):
        torch.testing.assert_close(
            interpolate_encoded(a, b, weight), interpolate_encoded(b, a, 1 - weight), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("other", [CHAINS["vp"].levels[91], CHAINS["flow"].levels[90]], ids=["index", "chain"])
def test_images_at_other_levels_are_refused(other):
    level = CHAINS["vp"].levels[90]
    (a, b), _ = ends(level)
    elsewhere = Encoded(b.x_0, other.noise(b.x_0, b.eps), other)
    for pair in ((a, elsewhere), (elsewhere, a)):
        with pytest.raises(InputError, match=r"^Images are interpolated between at one level: .*\.$"):
            interpolate_encoded(*pair, 0.5)


def decoded(denoiser, x_t, chain, stepper):
    *_, state = sampling_states(denoiser, None, chain, stepper, x_t)
    return state.x


@of_chain
def test_on_gaussian_data_the_decoded_image_is_the_closed_form_and_its_mean_follows_the_line(chain):
    """The ODE keeps (x - alpha m) / √(alpha² v + sigma²), and the last step says E[x_0 | x_1].

    So with independent noises at the ends the decoded images have the mean m + c ((1 - w) a + w b - m), and the
    variance that the noise gives them, whatever w is.
    """
    v, m = 0.25, torch.full(SHAPE, 0.2, dtype=torch.float64)
    denoiser = ExactDenoiser(gaussian_data(m, v), chain, FixedSmall())
    grid = Chain(chain.levels[:121])
    first, top = grid.levels[1], grid.levels[-1]
    variance_1, variance_top = (float(t.alpha) ** 2 * v + float(t.sigma) ** 2 for t in (first, top))
    gain = float(first.alpha) * v / math.sqrt(variance_1 * variance_top)
    n = 30
    a, b = (
        Encoded(x, top.noise(x, normal(n, seed)), top)
        for x, seed in ((torch.full((n, *SHAPE), -0.7).double(), 5), (torch.full((n, *SHAPE), 0.9).double(), 6))
    )
    for weight in (0.0, 0.25, 0.5, 1.0):
        x_t = interpolate_encoded(a, b, weight)
        found = decoded(denoiser, x_t, log_snr(grid, 2), AdaptiveODE(1e-9))
        torch.testing.assert_close(found, m + gain * (x_t - float(top.alpha) * m), rtol=0, atol=1e-6)
        middle = (1 - weight) * -0.7 + weight * 0.9
        deviation = gain * float(top.sigma)
        expected = 0.2 + gain * float(top.alpha) * (middle - 0.2)
        assert float(found.mean()) == pytest.approx(expected, abs=5 * deviation / math.sqrt(found.numel()))
        assert float(found.std()) == pytest.approx(deviation, rel=5 / math.sqrt(2 * found.numel()))


@of_chain
def test_halfway_between_two_encoded_images_lies_one_of_their_kind(chain):
    """Between images of Gaussian data, both encoded, the decoded image has the data's variance, not half of it.

    The image along the line loses half of it: where the level has little signal that is little of x_t.
    """
    data = gaussian_data(torch.zeros(SHAPE, dtype=torch.float64), 0.25)
    denoiser, grid = ExactDenoiser(data, chain, FixedSmall()), log_snr(Chain(chain.levels[:-1]), 40)
    top = grid.levels[-1]
    images = [data.sample(6, torch.Generator().manual_seed(seed)) for seed in (7, 8)]
    a, b = (Encoded(x, encode(denoiser, x, grid, Heun()), top) for x in images)
    middle = decoded(denoiser, interpolate_encoded(a, b, 0.5), grid, Heun())
    assert float(middle.var()) == pytest.approx(0.25, rel=0.1)
    for weight, image in ((0.0, images[0]), (1.0, images[1])):
        torch.testing.assert_close(
            decoded(denoiser, interpolate_encoded(a, b, weight), grid, Heun()), image, rtol=0, atol=5e-3
        )
