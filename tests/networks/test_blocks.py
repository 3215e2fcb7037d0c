"""The parts of the U-Net: each against its formula or torch's own module."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional as F

from clearwater.errors import InputError
from clearwater.networks.blocks import (
    Attention,
    Downsample,
    Dropout,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
    normalization,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever diffusers warns of on import is not ours
    from diffusers.models.embeddings import get_timestep_embedding


def randomised(module, seed=0):
    """The module in float64 with every parameter random, those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return module


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def embedded(embedding, time):
    """The sines and cosines that the first layer is given."""
    given = []
    hook = embedding.layer_1.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    embedding(time)
    hook.remove()
    return given[0]


@pytest.mark.parametrize("channels", [4, 32, 128])
def test_time_is_embedded_as_the_whole_numbers_up_to_1000_of_the_paper(channels):
    """Against diffusers' embedding of the timestep (sines first), and the formula in float64."""
    k = torch.tensor([0, 1, 10, 500, 999, 1000])
    actual = embedded(TimeEmbedding(channels, 8), (k.double() / 1000).float())
    # Angles up to 1000 in float32 carry errors of 1e-4.
    theirs = get_timestep_embedding(k, channels, flip_sin_to_cos=False, downscale_freq_shift=1)
    torch.testing.assert_close(actual, theirs, rtol=0, atol=2e-4)
    half = channels // 2
    angle = k.numpy()[:, None] * 10000.0 ** (-np.arange(half) / (half - 1))
    formula = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    torch.testing.assert_close(actual.double(), torch.from_numpy(formula), rtol=0, atol=2e-4)


def test_the_embedding_goes_through_two_layers_with_silu_between():
    embedding = randomised(TimeEmbedding(8, 6))
    time = images(3).abs()
    inner = embedded(embedding, time) @ embedding.layer_1.weight.T + embedding.layer_1.bias
    expected = (inner / (1 + (-inner).exp())) @ embedding.layer_2.weight.T + embedding.layer_2.bias
    torch.testing.assert_close(embedding(time), expected, rtol=1e-12, atol=1e-12)


def test_normalisation_has_32_groups_and_the_paper_s_epsilon():
    """With values as small as 1e-3 the epsilon of 1e-6 halves the variance's weight, so another one would show."""
    x = 1e-3 * images(2, 64, 5, 3)
    groups = x.reshape(2, 32, -1)
    mean, variance = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True)
    expected = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
    torch.testing.assert_close(normalization(64, None).double()(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "group_size", "groups"),
    [
        (128, None, 32),
        (48, None, 16),
        (16, None, 8),
        (32, None, 16),
        (64, 16, 4),
        (48, 16, 3),
        (8, 16, 1),
        (7, None, 1),
    ],
)
def test_the_number_of_groups_follows_the_width(channels, group_size, groups):
    assert normalization(channels, group_size).num_groups == groups


@settings(deadline=None)
@given(st.integers(1, 300), st.none() | st.integers(2, 64))
def test_any_width_can_be_normalised(channels, group_size):
    """The groups divide the channels, are no more than asked for, and none is a channel alone."""
    groups = normalization(channels, group_size).num_groups
    assert channels % groups == 0
    assert groups <= (32 if group_size is None else max(1, channels // group_size))
    assert groups == 1 or channels // groups >= 2


def test_groups_of_one_channel_are_refused():
    with pytest.raises(InputError, match="give group_size 2 or more"):
        normalization(8, 1)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12)])
def test_a_new_residual_block_is_its_skip(inputs, outputs):
    block, x = ResidualBlock(inputs, outputs, 6, 0.0, None).double(), images(2, inputs, 5, 4)
    expected = x if inputs == outputs else F.conv2d(x, block.skip.weight, block.skip.bias)
    assert torch.equal(block(x, images(2, 6)), expected)


def test_the_embedding_is_added_to_every_pixel_between_the_convolutions():
    """An embedding's effect is that of a bias of the first convolution, image by image."""
    block = randomised(ResidualBlock(8, 12, 6, 0.0, None))
    x, embedding = images(3, 8, 5, 4), images(3, 6, seed=1)
    expected = []
    for i in range(3):
        alone = randomised(ResidualBlock(8, 12, 6, 0.0, None))
        with torch.no_grad():
            alone.conv_1.bias += block.embed(embedding[i])
            alone.embed.weight.zero_()
            alone.embed.bias.zero_()
        expected.append(alone(x[i : i + 1], embedding[i : i + 1]))
    torch.testing.assert_close(block(x, embedding), torch.cat(expected), rtol=1e-11, atol=1e-11)


def test_a_new_attention_is_the_identity():
    x = images(2, 8, 5, 4)
    assert torch.equal(Attention(8, 2, None).double()(x), x)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_torch_s_multihead_attention_over_the_pixels(heads):
    ours = randomised(Attention(8, heads, None))
    theirs = nn.MultiheadAttention(8, heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = images(2, 8, 5, 3)
    pixels = ours.norm(x).flatten(2).transpose(1, 2)
    attended, _ = theirs(pixels, pixels, pixels)
    expected = x + attended.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(ours(x), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours(x.to(memory_format=torch.channels_last)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("side", [7, 24])  # 49 pixels, whose weights are held in memory, and 576
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_in_bf16_is_that_in_float32_but_for_its_rounding(side, heads):
    attention = randomised(Attention(32, heads, None)).float()
    x = images(2, 32, side, side).float()
    exact = attention(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(x)
    assert (rounded - exact).abs().max() < 0.02 * (exact - x).abs().max()  # bf16 has eight bits, and five products
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        attention.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
            attention(x).square().mean().backward()
        gradients.append(attention.qkv.weight.grad.clone())
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()


def test_downsampling_pads_below_and_on_the_right():
    """Output pixel (i, j) is the kernel on rows 2i..2i+2 and columns 2j..2j+2 of the image, zero beyond its end."""
    down = randomised(Downsample(2))
    x = images(1, 2, 4, 6)
    padded = torch.zeros(1, 2, 5, 7, dtype=torch.float64)
    padded[..., :4, :6] = x
    out = down(x)
    assert out.shape == (1, 2, 2, 3)
    for i in range(2):
        for j in range(3):
            window = padded[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected = (down.conv.weight * window).sum((1, 2, 3)) + down.conv.bias
            torch.testing.assert_close(out[0, :, i, j], expected, rtol=1e-12, atol=1e-12)


def test_upsampling_repeats_each_pixel_and_convolves():
    up = randomised(Upsample(2))
    x = images(1, 2, 3, 4)
    repeated = torch.from_numpy(np.kron(x.numpy(), np.ones((1, 1, 2, 2))))
    expected = F.conv2d(repeated, up.conv.weight, up.conv.bias, padding=1)
    torch.testing.assert_close(up(x), expected, rtol=1e-12, atol=1e-12)


def dropped(rate, x, seed=0):
    torch.manual_seed(seed)
    return Dropout(rate).train()(x)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_scales_what_it_keeps(rate):
    n, dropped_of_2_16 = 200_003, round(rate * 2**16)
    out = dropped(rate, torch.ones(n, dtype=torch.float64))
    zero, kept = out.unique().tolist()
    assert zero == 0
    # The scale is one over the chance of staying, so the mean is kept exactly.
    assert kept == pytest.approx(2**16 / (2**16 - dropped_of_2_16), rel=1e-15, abs=0)
    assert stats.binomtest(int((out == 0).sum()), n, dropped_of_2_16 / 2**16).pvalue > 1e-3
    assert abs(float(out.mean()) - 1) < 4 * math.sqrt(rate / (1 - rate) / n)


def test_dropout_drops_neighbours_independently():
    """Four elements share one random number: all sixteen patterns of them are equally likely at rate ½."""
    out = dropped(0.5, torch.ones(80_000)).reshape(-1, 4) > 0
    pattern = (out * torch.tensor([1, 2, 4, 8])).sum(1)
    assert stats.chisquare(torch.bincount(pattern, minlength=16).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1,), torch.contiguous_format),
        ((3,), torch.contiguous_format),
        ((3, 5, 7), torch.contiguous_format),
        ((2, 3, 5, 7), torch.contiguous_format),
        ((2, 3, 5, 7), torch.channels_last),
        ((1, 3, 3, 3), torch.channels_last),
        ((2, 8, 4, 4), torch.channels_last),
    ],
)
def test_dropout_keeps_or_scales_each_element_in_any_shape_and_layout(shape, layout):
    x = images(*shape).contiguous(memory_format=layout)
    out = dropped(0.25, x)
    assert bool(((out == 0) | (out == x * (2**16 / (2**16 - 2**14)))).all())
    assert out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_seed_drops_the_same_elements_and_another_seed_others(layout):
    x = images(2, 6, 5, 5).contiguous(memory_format=layout)
    assert torch.equal(dropped(0.5, x, seed=1), dropped(0.5, x, seed=1))
    assert not torch.equal(dropped(0.5, x, seed=1), dropped(0.5, x, seed=2))


@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, ::2], lambda x: x[:, :3], lambda x: x.transpose(0, 1), lambda x: x[:1].expand(6, 8)],
    ids=["stride", "slice", "transposed", "expanded"],
)
def test_dropout_drops_the_elements_of_any_view_independently(view):
    out = dropped(0.5, view(torch.ones(6, 8)))
    assert set(out.flatten().tolist()) == {0, 2}
    # Rows that are alike throughout would share their randomness: chance 2^-8 or less for two of them.
    assert len({tuple(row) for row in out.tolist()}) > 2


def test_the_gradient_passes_where_the_values_do():
    x = images(4, 50).requires_grad_()
    out = dropped(0.5, x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, (out != 0) * 2.0)


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True), (0.0, False)])
def test_dropout_is_the_identity_in_evaluation_and_at_rate_0(rate, training):
    x = images(5, 7)
    assert torch.equal(Dropout(rate).train(training)(x), x)


def test_dropout_at_rate_0_draws_nothing():
    torch.manual_seed(0)
    expected = torch.rand(3)
    dropped(0.0, torch.ones(100))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("rate", [1 - 2**-16, 1 - 1e-6])
def test_a_rate_just_below_1_keeps_one_element_in_65536(rate):
    out = dropped(rate, torch.ones(2**18))
    assert set(out.tolist()) == {0, 2**16}
    assert 0 < int((out > 0).sum()) < 15  # Poisson with mean 4


@pytest.mark.parametrize("rate", [1.0, 1.5, -0.1, math.nan])
def test_rates_outside_0_to_1_are_refused(rate):
    with pytest.raises(InputError, match="from 0 to below 1"):
        Dropout(rate)
