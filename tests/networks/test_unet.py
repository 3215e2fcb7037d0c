"""The U-Net against diffusers' with the same weights, and at any size."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clearwater.errors import InputError
from clearwater.networks import UNet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever diffusers warns of on import is not ours
    from diffusers import UNet2DModel

SMALL = {"channels": 8, "multipliers": (1, 2, 2), "blocks": 1, "attention": (1,)}


def randomise(network, scale=0.2):
    """The network in float64 with every parameter random, those that start at zero too."""
    generator = torch.Generator().manual_seed(0)
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=scale, generator=generator)
    return network


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(n):
    return torch.linspace(0.1, 1, n, dtype=torch.float64)


def test_the_defaults_are_the_35_7_million_parameters_of_the_paper():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in UNet().parameters()) == 35_746_307


# Where each of our modules stands in diffusers' network of the CIFAR-10 model (google/ddpm-cifar10-32).
PLACES = {
    "time.layer_1": "time_embedding.linear_1",
    "time.layer_2": "time_embedding.linear_2",
    "first": "conv_in",
    "norm": "conv_norm_out",
    "last": "conv_out",
    "middle_1.block": "mid_block.resnets.0",
    "middle_1.attention": "mid_block.attentions.0",
    "middle_2.block": "mid_block.resnets.1",
}
for level in range(4):
    for block in range(2):
        for ours, theirs in (("block", "resnets"), ("attention", "attentions")):
            PLACES[f"down.{3 * level + block}.{ours}"] = f"down_blocks.{level}.{theirs}.{block}"
    for block in range(3):
        for ours, theirs in (("block", "resnets"), ("attention", "attentions")):
            PLACES[f"up.{4 * level + block}.{ours}"] = f"up_blocks.{level}.{theirs}.{block}"
    if level < 3:
        PLACES[f"down.{3 * level + 2}.conv"] = f"down_blocks.{level}.downsamplers.0.conv"
        PLACES[f"up.{4 * level + 3}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"

# What the layers inside a residual block and an attention are called there; qkv is three layers.
LAYERS = {
    "norm_1": ["norm1"],
    "conv_1": ["conv1"],
    "embed": ["time_emb_proj"],
    "norm_2": ["norm2"],
    "conv_2": ["conv2"],
    "skip": ["conv_shortcut"],
    "norm": ["group_norm"],
    "qkv": ["to_q", "to_k", "to_v"],
    "out": ["to_out.0"],
}


def their_names(name):
    """The names in diffusers' network that together are our parameter `name`."""
    module, kind = name.rsplit(".", 1)
    if module in PLACES:
        return [f"{PLACES[module]}.{kind}"]
    place, layer = module.rsplit(".", 1)
    return [f"{PLACES[place]}.{inner}.{kind}" for inner in LAYERS[layer]]


class SameSines(nn.Module):
    """The sines and cosines of our network for diffusers' timesteps; it computes its own in float32 alone."""

    def __init__(self, frequencies):
        super().__init__()
        self.register_buffer("frequencies", frequencies)

    def forward(self, timestep):
        angle = timestep[:, None] / 1000 * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], 1)


@pytest.fixture(scope="module")
def both():
    """Our network and diffusers', in float64 with the same random weights."""
    ours = randomise(UNet(dropout=0.1), scale=0.05)
    theirs = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        dropout=0.1,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    theirs = theirs.double().eval()
    parameters, unfilled = dict(theirs.named_parameters()), {name for name, _ in theirs.named_parameters()}
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            names = their_names(name)
            for their_name, part in zip(names, parameter.chunk(len(names)), strict=True):
                parameters[their_name].copy_(part)
                unfilled.remove(their_name)
    assert not unfilled
    return ours, theirs


def test_forward_and_gradients_are_those_of_diffusers(both):
    ours, theirs = both
    x, time, weight = images(2, 3, 16, 16), times(2), images(2, 3, 16, 16, seed=1)
    theirs.time_proj, exact = SameSines(ours.time.frequencies), theirs.time_proj
    try:
        results = []
        for network, run in ((ours, lambda x: ours(x, time)), (theirs, lambda x: theirs(x, 1000 * time).sample)):
            network.zero_grad()
            given = x.clone().requires_grad_()
            out = run(given)
            (out * weight).sum().backward()
            results.append((out.detach(), given.grad))
    finally:
        theirs.time_proj = exact
    (out, into), (their_out, into_theirs) = results
    assert float(out.std()) > 0.01  # not a comparison of zeros
    torch.testing.assert_close(out, their_out, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(into, into_theirs, rtol=1e-9, atol=1e-10)
    parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = torch.cat([parameters[their_name].grad for their_name in their_names(name)])
        size = float(expected.abs().max())
        # The bias of the keys changes nothing: softmax is blind to it. Its gradient is rounding, hence atol.
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-10 * (1 + size), msg=name)


@pytest.mark.parametrize("timestep", [0, 1, 37, 999])
def test_our_time_is_diffusers_timestep_over_1000(both, timestep):
    """Its own sines are float32, with angles up to 1000: that bounds the agreement."""
    ours, theirs = both
    x = images(1, 3, 8, 8)
    with torch.no_grad():
        expected = theirs(x, timestep).sample
        actual = ours(x, torch.tensor([timestep / 1000], dtype=torch.float64))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12 + 5e-9 * timestep)


def test_a_new_network_says_zero():
    network = UNet(**SMALL)
    assert not network(images(2, 3, 8, 8).float(), times(2).float()).any()


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 3), (12, 5), (1, 1)])
@pytest.mark.parametrize("image_channels", [1, 2, 3, 5])
def test_sides_that_the_levels_do_not_divide_are_padded_with_zeros_below_and_on_the_right(size, image_channels):
    network, (height, width) = randomise(UNet(image_channels, **SMALL)), size
    x = images(2, image_channels, height, width)
    padded = torch.zeros(2, image_channels, -(-height // 4) * 4, -(-width // 4) * 4, dtype=torch.float64)
    padded[..., :height, :width] = x
    with torch.no_grad():
        out, expected = network(x, times(2)), network(padded, times(2))
    assert out.shape == x.shape
    assert float(out.abs().max()) > 1e-3
    torch.testing.assert_close(out, expected[..., :height, :width], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("patch", [2, 3])
@pytest.mark.parametrize("size", [(12, 24), (7, 10)])
def test_a_patch_network_is_a_plain_one_around_folded_pixels(patch, size):
    folded = randomise(UNet(2, patch=patch, channels=8, multipliers=(1, 2), blocks=1))
    plain = UNet(2 * patch**2, channels=8, multipliers=(1, 2), blocks=1).double().eval()
    plain.load_state_dict(folded.state_dict())
    x, (height, width) = images(2, 2, *size), size
    step = 2 * patch
    padded = F.pad(x, (0, -width % step, 0, -height % step))
    # pixel (i, j) of a patch of channel c becomes channel c · patch² + i · patch + j
    rows, columns = padded.shape[2] // patch, padded.shape[3] // patch
    pixels = padded.reshape(2, 2, rows, patch, columns, patch).permute(0, 1, 3, 5, 2, 4).reshape(2, -1, rows, columns)
    with torch.no_grad():
        y = plain(pixels, times(2))
        out = folded(x, times(2))
    unfolded = y.reshape(2, 2, patch, patch, rows, columns).permute(0, 1, 4, 2, 5, 3).reshape(padded.shape)
    torch.testing.assert_close(out, unfolded[..., :height, :width], rtol=1e-12, atol=1e-12)


def test_an_image_s_output_does_not_depend_on_its_neighbours_in_the_batch():
    network, x, time = randomise(UNet(**SMALL)), images(4, 3, 8, 8), times(4)
    with torch.no_grad():
        together = network(x, time)
        for i in range(4):
            alone = network(x[i : i + 1], time[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("group_size", [None, 16])
def test_placing_a_network_changes_its_memory_layout_and_nothing_else(group_size):
    x = images(2, 3, 8, 8)
    network = randomise(UNet(3, channels=32, multipliers=(1, 2), blocks=1, group_size=group_size))
    with torch.no_grad():
        before = network(x, times(2))
        after = network.place(torch.device("cpu"))(x, times(2))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
    last = network.middle_1.block.conv_1.weight
    assert last.is_contiguous(memory_format=torch.channels_last) == (group_size == 16)


def test_attention_stands_at_the_levels_asked_for_and_always_in_the_middle():
    def attended(**options):
        names = [name for name, _ in UNet(channels=8, multipliers=(1, 1, 1), blocks=1, **options).named_parameters()]
        return {match[0] for name in names if (match := re.match(r".*(?=\.attention\.qkv\.weight)", name))}

    assert attended(attention=()) == {"middle_1"}
    assert attended(attention=(0,)) == {"middle_1", "down.0", "up.6", "up.7"}
    assert attended(attention=(2, 1)) == {"middle_1", "down.2", "down.4", "up.0", "up.1", "up.3", "up.4"}


@pytest.mark.parametrize("attention", [(4,), (1, 7), (-1,)])
def test_attention_at_levels_that_there_are_not_is_refused(attention):
    with pytest.raises(InputError, match="levels 0 to 3"):
        UNet(attention=attention)


@pytest.mark.parametrize(
    ("channels", "heads"), [pytest.param(8, 3, id="3"), pytest.param(8, 0, id="none"), pytest.param(8, -2, id="-2")]
)
def test_heads_that_do_not_divide_the_channels_are_refused(channels, heads):
    with pytest.raises(InputError, match="heads"):
        UNet(channels=channels, heads=heads)


def test_a_rate_of_dropout_that_is_none_is_refused():
    with pytest.raises(InputError, match="dropout"):
        UNet(**SMALL, dropout=1.0)


def test_dropout_acts_in_training_alone():
    network = randomise(UNet(**SMALL, dropout=0.5))
    x = images(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(x, times(2)), network(x, times(2)))
        network.train()
        torch.manual_seed(0)
        first = network(x, times(2))
        assert not torch.equal(first, network(x, times(2)))
        torch.manual_seed(0)
        assert torch.equal(first, network(x, times(2)))
