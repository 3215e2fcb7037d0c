"""The sampling loop: what it yields, what it draws, and that an image does not depend on its batch."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from clearwater.chains import Chain, linear
from clearwater.denoisers import Clipped, NetworkDenoiser
from clearwater.errors import InputError
from clearwater.networks import UNet
from clearwater.randomness import ImageNoise
from clearwater.sampling import DDIM, SAMPLERS, Ancestral, SamplerOptions, Stepper, sample, sampling_states
from clearwater.schedules import VE
from clearwater.targets import Eps, V
from clearwater.variances import FixedLarge, FixedSmall


class Counting:
    """Noise that counts how often it is drawn."""

    def __init__(self):
        self.drawn = []
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self):
        self.drawn.append(torch.randn(2, 1, 3, 3, generator=self.generator, dtype=torch.float64))
        return self.drawn[-1]


class Sine(nn.Module):
    def forward(self, x, time):
        return (2 * x).sin() + time.reshape(-1, 1, 1, 1)


def denoiser(chain, variance=None):
    return NetworkDenoiser(Sine(), chain, Eps(), FixedSmall() if variance is None else variance)


@pytest.mark.parametrize(
    ("chain", "deviation"),
    [
        pytest.param(linear(30), 1, id="all"),
        pytest.param(linear(30).strided(1), 1, id="one step"),
        pytest.param(linear(1000).strided(7), 1, id="strided"),
        pytest.param(Chain.from_schedule(VE(), 9), 80, id="ve"),
    ],
)
def test_the_states_run_from_a_draw_of_the_prior_down_to_level_0(chain, deviation):
    """The prior is N(0, I) (Ho et al. 2020, algorithm 2), or N(0, sigma_T² I) where the variance explodes."""
    noise = Counting()
    states = list(sampling_states(denoiser(chain), noise))
    assert [state.k for state in states] == list(range(chain.T, -1, -1))
    assert states[0].prediction is None
    torch.testing.assert_close(states[0].x, deviation * noise.drawn[0], rtol=1e-14, atol=0)


@pytest.mark.parametrize("T", [1, 2, 5, 30])
@pytest.mark.parametrize("variance", [FixedLarge(), FixedSmall()], ids=["large", "small"])
def test_noise_is_drawn_once_for_the_start_and_once_a_step_but_the_last(T, variance):
    noise = Counting()
    for state in sampling_states(denoiser(linear(30).strided(T), variance), noise):
        assert len(noise.drawn) == min(T - state.k + 1, T)


def test_each_state_has_the_prediction_that_it_was_made_from():
    chain = linear(30)
    states = list(sampling_states(denoiser(chain), Counting()))
    for before, after in pairwise(states):
        expected = denoiser(chain)(before.x, chain.levels[before.k])
        assert torch.equal(after.prediction.x_0, expected.x_0)
        assert torch.equal(after.prediction.eps, expected.eps)
    # At data the reverse mean is x_0 itself.
    assert torch.equal(states[-1].x, states[-1].prediction.x_0)


class Noting(Stepper):
    """Halves x at each step, and notes what it was planned for and what its steps were told."""

    def __init__(self):
        self.paths, self.told = [], []

    def plan(self, path, at_log_snr):
        self.paths.append(path)
        self.at_log_snr = at_log_snr

        def step(denoiser, x_t, memory, noise, level):
            self.told.append(memory)
            return x_t / 2, denoiser(x_t, level), (*memory, x_t)

        return [partial(step, level=path[i]) for i in range(len(path) - 1)]


def test_the_stepper_is_planned_once_for_the_levels_of_the_chain_that_is_asked_for():
    trained, asked = linear(1000), linear(1000).strided(4)
    noise, stepper = Counting(), Noting()
    *_, state = sampling_states(denoiser(trained), noise, asked, stepper)
    (path,) = stepper.paths
    assert path.time.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert torch.equal(path.sigma, trained.levels.sigma[[1000, 750, 500, 250, 0]])
    torch.testing.assert_close(state.x, noise.drawn[0] / 16, rtol=1e-15, atol=0)
    # Levels between are those of the network's chain, not of the few that are visited.
    middle = trained.levels[613]
    assert float(stepper.at_log_snr(middle.log_snr).time) == pytest.approx(0.613, abs=1e-12)


def test_each_step_is_told_what_the_step_before_remembered_and_the_first_nothing():
    chain, stepper = linear(50).strided(5), Noting()
    states = list(sampling_states(denoiser(chain), Counting(), chain, stepper))
    assert len(stepper.told) == 5
    for k, memory in enumerate(stepper.told):
        assert len(memory) == k
        assert all(torch.equal(x, state.x) for x, state in zip(memory, states, strict=False))


def test_sampling_begins_where_it_is_told_to_and_draws_nothing_for_it():
    chain, noise = linear(50).strided(5), Counting()
    start = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(2, 1, 3, 3)
    states = list(sampling_states(denoiser(chain), noise, chain, DDIM(), start))
    assert torch.equal(states[0].x, start)
    assert states[0].k == 5
    assert noise.drawn == []
    # From a level in the middle of a chain the way on is that of the whole chain.
    rest = Chain(chain.levels[:4])
    *_, state = sampling_states(denoiser(chain), noise, rest, DDIM(), states[2].x)
    torch.testing.assert_close(state.x, states[-1].x, rtol=1e-14, atol=1e-14)


def test_the_default_is_ancestral_sampling_on_the_denoiser_s_own_chain():
    chain = linear(120).strided(12)
    plain = [state.x for state in sampling_states(denoiser(chain), Counting())]
    spelt = [state.x for state in sampling_states(denoiser(chain), Counting(), chain, Ancestral())]
    assert len(plain) == 13
    assert all(torch.equal(a, b) for a, b in zip(plain, spelt, strict=True))


@pytest.mark.parametrize("grad", [True, False])
def test_the_caller_s_gradient_mode_is_untouched_between_states(grad):
    with torch.set_grad_enabled(grad):
        states = sampling_states(denoiser(linear(50).strided(5)), Counting())
        for state in states:
            assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled() == grad
            if state.k == 2:
                break
        states.close()
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled() == grad


def test_no_gradient_is_recorded_while_sampling():
    network = nn.Conv2d(1, 1, 3, padding=1).double()

    class Ignoring(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, time):
            assert not torch.is_grad_enabled()
            return self.inner(x)

    of_network = NetworkDenoiser(Ignoring(), linear(30).strided(3), Eps(), FixedSmall())
    assert not any(state.x.requires_grad for state in sampling_states(of_network, Counting()))


@pytest.fixture(scope="module")
def unet():
    """A small U-Net with every parameter random, the zero-initialised ones too."""
    network = UNet(3, channels=16, multipliers=(1, 2), blocks=1, attention=(1,), dropout=0.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval()


SHAPE = (3, 8, 8)


def pixels(images):
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def made_of(of_network, chain, seed, indices):
    *_, state = sampling_states(of_network, ImageNoise(seed, indices, SHAPE, "cpu"), chain)
    return state.x


@pytest.mark.parametrize("clip", [True, False], ids=["clipped", "unclipped"])
def test_an_image_does_not_depend_on_the_batch_it_is_made_in(unet, clip):
    chain = linear(1000).strided(10)
    of_network = NetworkDenoiser(unet, linear(1000), V(), FixedLarge())
    if clip:
        of_network = Clipped(of_network)
    together = sample(of_network, 5, SHAPE, seed=24, chain=chain)
    inside = together[together.abs() < 1]
    # Where a value lies within 1e-5 of where rounding to 8 bits changes, a rounding error may show.
    certain = ((together + 1) * 127.5 % 1 - 0.5).abs() / 127.5 > 1e-5
    assert float(certain.float().mean()) > 0.99
    # The images differ from each other and are not all clipped to the ends of the range: the claim is not empty.
    assert len({tuple(row) for row in pixels(together).flatten(1).tolist()}) == 5
    assert len(inside) > 0.2 * together.numel()
    in_twos = sample(of_network, 5, SHAPE, seed=24, batch=2, chain=chain)
    torch.testing.assert_close(in_twos, together, rtol=0, atol=5e-6)
    for indices in ([0], [2, 3], [4, 100, 7, 1]):
        apart = made_of(of_network, chain, 24, indices)
        for row, index in enumerate(indices):
            if index < 5:
                torch.testing.assert_close(apart[row], together[index], rtol=0, atol=5e-6)
                same = pixels(apart[row]) == pixels(together[index])
                assert bool(same[certain[index]].all())


def test_a_sample_is_the_last_state_of_sampling_and_another_seed_is_another_sample(unet):
    of_network = NetworkDenoiser(unet, linear(1000), V(), FixedSmall())
    chain = linear(1000).strided(4)
    drawn = sample(of_network, 2, SHAPE, seed=8, chain=chain)
    assert torch.equal(drawn, made_of(of_network, chain, 8, [0, 1]))
    assert not torch.equal(drawn, sample(of_network, 2, SHAPE, seed=9, chain=chain))


def test_sample_goes_through_the_denoiser_s_own_chain_with_the_stepper_it_is_given():
    chain, stepper = linear(40).strided(4), Noting()
    drawn = sample(denoiser(chain), 3, (1, 2, 2), seed=1, stepper=stepper)
    assert [path.time.tolist() for path in stepper.paths] == [[1.0, 0.75, 0.5, 0.25, 0.0]]
    start = ImageNoise(1, range(3), (1, 2, 2), "cpu")()
    torch.testing.assert_close(drawn, start / 16, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_of_any_sampler_does_not_depend_on_its_batch(unet, name):
    """But for the adaptive one, whose images share the solver's steps: it is within its tolerance."""
    of_network = NetworkDenoiser(unet, linear(1000), V(), FixedSmall())
    stepper, chain = SAMPLERS[name].make(SamplerOptions()), linear(1000).strided(6)
    together = sample(of_network, 3, SHAPE, seed=5, chain=chain, stepper=stepper)
    apart = sample(of_network, 3, SHAPE, seed=5, batch=2, chain=chain, stepper=stepper)
    size = float(together.abs().max())
    torch.testing.assert_close(apart, together, rtol=0, atol=(1e-2 if name == "adaptive" else 1e-5) * size)
    assert float((together[0] - together[1]).abs().max()) > 0.1 * size


@pytest.mark.parametrize(("n", "batch"), [(0, 4), (4, 0)])
def test_no_image_or_none_at_a_time_is_refused(unet, n, batch):
    of_network = NetworkDenoiser(unet, linear(1000), V(), FixedSmall())
    with pytest.raises(InputError, match="at least one"):
        sample(of_network, n, SHAPE, batch=batch)
