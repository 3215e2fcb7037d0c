"""How a U-Net is told a class: a vector that is added to the embedding of the time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.networks import UNet

CLASSES = 3  # and one more number, 3, which stands for none


def _network(classes: int | None = CLASSES) -> UNet:
    """In float64, with every parameter random, those that start at zero too."""
    network = UNet(2, channels=8, multipliers=(1, 2), blocks=1, dropout=0.0, group_size=4, classes=classes).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return network


def _images(n: int) -> Tensor:
    return torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _times(n: int) -> Tensor:
    return torch.linspace(0.1, 1, n, dtype=torch.float64)


def _without_classes(network: UNet, added: Tensor) -> UNet:
    """A network that knows no classes, with the same weights, and a vector added to its embedding of the time."""
    plain = _network(classes=None)
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith("label")}
    plain.load_state_dict({**weights, "time.layer_2.bias": weights["time.layer_2.bias"] + added})
    return plain


@pytest.mark.parametrize("label", range(CLASSES + 1))
def test_a_class_is_a_vector_added_to_the_embedding_of_the_time(label: int) -> None:
    network = _network()
    assert network.label is not None
    plain = _without_classes(network, network.label.weight[label].detach())
    with torch.no_grad():
        found = network(_images(4), _times(4), torch.full((4,), label))
        torch.testing.assert_close(found, plain(_images(4), _times(4)), rtol=1e-10, atol=1e-10)


def test_told_no_class_it_takes_the_number_after_the_last() -> None:
    network = _network()
    with torch.no_grad():
        untold = network(_images(4), _times(4))
        assert torch.equal(untold, network(_images(4), _times(4), torch.full((4,), CLASSES)))
        for label in range(CLASSES):
            assert not torch.allclose(untold, network(_images(4), _times(4), torch.full((4,), label)))


def test_where_all_classes_have_one_vector_the_class_makes_no_difference_and_else_it_does() -> None:
    network = _network()
    assert network.label is not None
    labels = [torch.full((4,), label) for label in range(CLASSES + 1)]
    with torch.no_grad():
        outputs = [network(_images(4), _times(4), each) for each in labels]
        apart = [float((a - b).abs().amax((1, 2, 3)).min()) for i, a in enumerate(outputs) for b in outputs[:i]]
        assert min(apart) > 1e-2  # each class, on each image
        network.label.weight.copy_(network.label.weight[:1].expand_as(network.label.weight))
        same = [network(_images(4), _times(4), each) for each in labels]
    assert all(torch.equal(each, same[0]) for each in same)


def test_each_image_of_a_mixed_batch_is_told_its_own_class() -> None:
    network, labels = _network(), torch.tensor([2, 0, 3, 1, 0])
    with torch.no_grad():
        together = network(_images(5), _times(5), labels)
        for row, label in enumerate(labels.tolist()):
            alone = network(_images(5), _times(5), torch.full((5,), label))
            torch.testing.assert_close(together[row], alone[row], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("labels", "reached"), [([2, 0, 2], {0, 2}), ([3, 3, 1], {1, 3}), ([1, 1, 1], {1}), (None, {3})]
)
def test_only_the_classes_that_occur_are_learned_from(labels: list[int] | None, reached: set[int]) -> None:
    network = _network()
    assert network.label is not None
    told = None if labels is None else torch.tensor(labels)
    network(_images(3), _times(3), told).square().sum().backward()
    gradient = network.label.weight.grad
    assert gradient is not None
    sizes = gradient.norm(dim=1)
    assert {label for label, size in enumerate(sizes.tolist()) if size > 0} == reached
    assert float(sizes[sorted(reached)].min()) > 1e-3 * float(sizes.max())


def test_a_network_that_knows_no_classes_refuses_them_and_has_no_parameters_for_them() -> None:
    plain = _network(classes=None)
    with pytest.raises(InputError, match=r"^This network knows no classes: .*\.$"):
        plain(_images(2), _times(2), torch.tensor([0, 1]))
    features = 4 * 8
    count = sum(parameter.numel() for parameter in _network().parameters())
    assert count - sum(parameter.numel() for parameter in plain.parameters()) == (CLASSES + 1) * features


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_a_narrow_network_with_the_paper_s_groups_tells_classes_and_times_apart(channels: int) -> None:
    """A group of one channel alone would take away what the embedding adds: one number a channel."""
    network = UNet(2, channels=channels, multipliers=(1,), blocks=1, attention=(), dropout=0.0, classes=CLASSES)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=generator)
        x, early, late = _images(2).float(), torch.full((2,), 0.1), torch.full((2,), 0.9)
        zero, one = torch.tensor([0, 0]), torch.tensor([1, 1])
        found = network(x, early, zero)
        size = float(found.std())
        assert float((network(x, early, one) - found).std()) > 1e-3 * size
        assert float((network(x, late, zero) - found).std()) > 1e-3 * size
