"""What cannot be sampled is told in one sentence: what was given, what is allowed, what to do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from clearwater import (
    DDIM,
    Blurred,
    Clipped,
    Downsampled,
    Encoded,
    FixedSmall,
    Guided,
    Heun,
    InputError,
    Masked,
    NetworkDenoiser,
    Posterior,
    RePaint,
    UNet,
    V,
    chain,
    encode,
    interpolate_encoded,
    sample,
    sampling_states,
    slerp,
)
from clearwater.analytic import ExactDenoiser, gaussian_data
from clearwater.randomness import ImageNoise
from clearwater.sampling.inputs import device_of

FULL = chain("cosine", 10)
SHORT = FULL.strided(2)
SHAPE = (1, 8, 8)
X = torch.zeros(2, *SHAPE)


def model(channels=1, classes=None, labels=None, patch=2):
    torch.manual_seed(0)
    network = UNet(
        channels, channels=16, multipliers=(1,), blocks=1, attention=(), group_size=16, patch=patch, classes=classes
    )
    with torch.no_grad():
        for parameter in network.parameters():  # the last layer begins with zeros
            parameter.normal_(0, 0.1)
    return NetworkDenoiser(network.eval(), FULL, V(), FixedSmall(), labels=labels)


PLAIN, TOLD, COLOUR = model(), model(classes=3), model(3, patch=1)


def labelled(*labels, dtype=torch.int64):
    return replace(TOLD, labels=torch.tensor(labels, dtype=dtype))


def drawn(denoiser=PLAIN, n=2, shape=SHAPE, **options):
    return sample(denoiser, n, shape, chain=SHORT, **options)


# what is done, what the sentence names
WRONG = {
    "no channels": (lambda: drawn(shape=(8, 8)), r"\(B, 1, H, W\), not \(2, 8, 8\)"),
    "a batch for an image": (lambda: drawn(shape=(2, 1, 8, 8)), r"not \(2, 2, 1, 8, 8\)"),
    "too many channels": (lambda: drawn(shape=(3, 8, 8)), r"\(B, 1, H, W\), not \(2, 3, 8, 8\)"),
    "too few channels": (lambda: drawn(COLOUR), r"\(B, 3, H, W\), not \(2, 1, 8, 8\)"),
    "within others": (lambda: drawn(Clipped(Guided(PLAIN, COLOUR, 2.0))), r"\(B, 3, H, W\), not \(2, 1, 8, 8\)"),
    "nothing": (lambda: drawn(shape=()), r"not \(\)"),
    "no height": (lambda: drawn(shape=(1, 0, 8)), r"not \(1, 0, 8\)"),
    "below nothing": (lambda: drawn(shape=(1, -8, 8)), r"not \(1, -8, 8\)"),
    "half a pixel": (lambda: drawn(shape=(1, 8.5, 8)), r"not \(1, 8.5, 8\)"),
    "a number": (lambda: drawn(shape=8), "not 8"),
    "too many labels": (lambda: drawn(labelled(0, 1, 2)), r"Labels of shape \(3,\) .* batch of 2 image"),
    "too few labels": (lambda: drawn(labelled(0, 1), n=3), r"Labels of shape \(2,\) .* batch of 3 image"),
    "labels of all batches": (lambda: drawn(labelled(0, 1, 2, 0), n=4, batch=3), "batch of 3 image"),
    "labels of no last batch": (lambda: drawn(labelled(0, 1, 2), n=4, batch=3), "batch of 1 image"),
    "labels of a guide": (lambda: drawn(Guided(labelled(0, 1), labelled(0, 1, 2), 2.0)), r"shape \(3,\)"),
    "labels in rows": (lambda: drawn(replace(TOLD, labels=torch.tensor([[0, 1]]))), r"shape \(1, 2\)"),
    "a label too high": (lambda: drawn(labelled(0, 4)), "from 0 to 4 .* of 3 classes: give 0 to 2, or 3"),
    "a label below 0": (lambda: drawn(labelled(-1, 0)), "from -1 to 0"),
    "labels between": (lambda: drawn(labelled(0, 1, dtype=torch.float32)), "torch.float32"),
    "a list of labels": (lambda: drawn(replace(TOLD, labels=[0, 1])), "not list"),
    "labels of no classes": (lambda: drawn(replace(PLAIN, labels=torch.tensor([0, 1]))), "knows no classes"),
    "no image": (lambda: drawn(n=0), "not 0 and 64"),
    "half an image": (lambda: drawn(n=2.5), "not 2.5"),
    "none at a time": (lambda: drawn(batch=0), "not 2 and 0"),
    "half a batch": (lambda: drawn(batch=1.5), "not 1.5"),
    "half a seed": (lambda: drawn(seed=1.0), "not 1.0"),
    "a seed in words": (lambda: drawn(seed="one"), "not 'one'"),
    "no seed": (lambda: drawn(seed=None), "not None"),
    "another device": (lambda: drawn(device="meta"), "on cpu and the images are on meta"),
    "no device": (lambda: drawn(device="magic"), "'magic'"),
    "a number of steps": (lambda: sample(PLAIN, 2, SHAPE, chain=20), "not 20"),
    "more steps than levels": (lambda: sample(PLAIN, 2, SHAPE, chain=FULL.strided(11)), "not 11"),
    "a sampler's name": (lambda: drawn(stepper="ddim"), "not 'ddim'"),
    "a sampler's class": (lambda: drawn(stepper=DDIM), "not <class"),
    "a network": (lambda: drawn(PLAIN.network), "UNet"),
    "a run's name": (lambda: drawn("runs/mine"), "load_denoiser.* not 'runs/mine'"),
    "a start of one image": (lambda: next(sampling_states(PLAIN, None, SHORT, start=X[0])), r"not \(1, 8, 8\)"),
    "a start of pixels": (lambda: next(sampling_states(PLAIN, None, SHORT, start=X.byte())), "torch.uint8"),
    "an image for a batch": (lambda: encode(PLAIN, X[0], SHORT), r"\(B, 1, H, W\), not \(1, 8, 8\)"),
    "an image in colours": (lambda: encode(PLAIN, X.expand(2, 3, 8, 8), SHORT), r"not \(2, 3, 8, 8\)"),
    "no image to encode": (lambda: encode(PLAIN, X[:0], SHORT), r"not \(0, 1, 8, 8\)"),
    "8-bit images": (lambda: encode(PLAIN, X.byte(), SHORT), "pixel_values.* not a tensor of torch.uint8"),
    "an array": (lambda: encode(PLAIN, X.numpy(), SHORT), "numpy.ndarray"),
    "labels of other images": (lambda: encode(labelled(0, 1, 2), X, SHORT), r"shape \(3,\) .* batch of 2"),
    "a stepper's name": (lambda: encode(PLAIN, X, SHORT, "ddim"), "not 'ddim'"),
    "another x_t": (lambda: Encoded(X, X[..., :4], SHORT.levels[-1]), r"\(2, 1, 8, 8\) and \(2, 1, 8, 4\)"),
    "encoded to data": (lambda: Encoded(X, X, SHORT.levels[0]), "above data"),
    "encoded to all levels": (lambda: Encoded(X, X, SHORT.levels), "one level"),
    "one with two": (
        lambda: interpolate_encoded(encoded(X), encoded(X[:1]), 0.5),
        r"\(2, 1, 8, 8\) and \(1, 1, 8, 8\)",
    ),
    "one noise with two": (lambda: slerp(X, X[:1], 0.5), r"\(2, 1, 8, 8\) and \(1, 1, 8, 8\)"),
    "another image": (lambda: drawn(stepper=RePaint(Heun(), X[:1, :, :4], X[:1])), r"\(1, 1, 4, 8\)"),
    "another mask": (lambda: drawn(stepper=RePaint(Heun(), X[:1], torch.zeros(4, 4))), r"mask .*\(4, 4\)"),
    "a mask of no image": (lambda: drawn(Posterior(PLAIN, Masked(torch.zeros(4, 4)), X[:1])), r"mask .*\(4, 4\)"),
    "no block": (lambda: Downsampled(0), "not 0"),
    "no blur": (lambda: Blurred(0.0), "not 0.0"),
    "a blur below none": (lambda: Blurred(-1.0), "not -1.0"),
    "no scale": (lambda: Guided(PLAIN, PLAIN, float("nan")), "not nan"),
}


def encoded(x):
    return Encoded(x, x, SHORT.levels[-1])


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_one_sentence(name):
    do, named = WRONG[name]
    with pytest.raises(InputError, match=named) as caught:
        do()
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said


def test_nothing_is_asked_of_the_network_before_a_last_batch_of_other_labels_is_refused():
    asked = []
    network = TOLD.network
    handle = network.register_forward_pre_hook(lambda *_: asked.append(1))
    with pytest.raises(InputError, match="batch of 1 image"):
        drawn(labelled(0, 1, 2), n=4, batch=3)
    handle.remove()
    assert asked == []


@pytest.mark.parametrize("kind", [np.int64, np.int8, torch.tensor], ids=["int64", "int8", "tensor"])
def test_a_whole_number_of_another_kind_is_the_same_seed(kind):
    """As of a loop over numpy.arange: the hash of a seed is of how it is written."""
    assert torch.equal(drawn(seed=kind(3)), drawn(seed=3))
    assert torch.equal(drawn(n=kind(2), batch=kind(2)), drawn())
    assert not torch.equal(drawn(seed=3), drawn(seed=4))


@pytest.mark.parametrize("labels", [[2, 2], [2]], ids=["each", "one for all"])
def test_a_label_for_each_image_or_one_for_all_is_taken(labels):
    of_each = drawn(labelled(*labels))
    one = drawn(labelled(2), n=1)
    torch.testing.assert_close(of_each[:1], one, rtol=0, atol=1e-5)
    assert not torch.equal(of_each, drawn(labelled(0, 0)))


def test_the_label_after_the_last_stands_for_none():
    assert torch.equal(drawn(labelled(3, 3)), drawn(TOLD))


def test_images_are_made_where_the_network_is():
    far = replace(PLAIN, network=model().network.to("meta"))
    assert device_of(None, Clipped(Guided(far, PLAIN, 2.0))) == torch.device("meta")
    assert device_of(None, PLAIN) == device_of("cpu", far) == torch.device("cpu")
    points = ExactDenoiser(gaussian_data(torch.zeros(3), 1.0), FULL, FixedSmall())  # no network at all
    assert device_of(None, points) == torch.device("cpu")


class Half(nn.Module):
    def forward(self, x, time):
        return x / 2


@pytest.mark.parametrize(
    ("denoiser", "shape"),
    [(NetworkDenoiser(Half(), FULL, V(), FixedSmall()), (5,)), (PLAIN, torch.Size((1, 5, 11)))],
    ids=["points, for a network of another kind", "images of another size than the run's"],
)
def test_what_a_network_can_see_is_made(denoiser, shape):
    *_, state = sampling_states(denoiser, ImageNoise(0, range(2), shape, "cpu"), SHORT)
    assert torch.equal(drawn(denoiser, shape=shape), state.x)
    assert state.x.shape == (2, *shape)
