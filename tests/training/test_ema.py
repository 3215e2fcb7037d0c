"""The average of the weights, against a plain loop in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clearwater.training import EMA


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))


@given(n=st.integers(1, 10**7), gamma=st.floats(0, 20), cap=st.floats(0, 1, exclude_max=True))
def test_the_decay_is_a_power_of_1_minus_1_over_n_up_to_its_cap(n: int, gamma: float, cap: float) -> None:
    ema = EMA(dict(nn.Linear(1, 1).named_parameters()), cap, gamma)
    exact = 0.0 if n == 1 else math.exp((gamma + 1) * math.log1p(-1 / n))
    assert ema.decay_at(n) == pytest.approx(min(cap, exact), rel=1e-9, abs=1e-300)


def test_the_decay_is_0_at_first_and_the_cap_in_the_end() -> None:
    ema = EMA(dict(nn.Linear(1, 1).named_parameters()), 0.9999, 6.94)
    assert ema.decay_at(1) == 0
    assert ema.decay_at(2) == pytest.approx(2**-7.94)
    assert ema.decay_at(10**6) == 0.9999


@pytest.mark.parametrize(("decay", "gamma"), [(0.9999, 6.94), (0.5, 6.94), (0.99, 0.0), (0.0, 1.0)])
def test_the_average_is_that_of_a_plain_loop(decay: float, gamma: float) -> None:
    network = _network()
    ema = EMA(dict(network.named_parameters()), decay, gamma)
    drawn = np.random.default_rng(0)
    expected = {name: np.zeros(value.shape) for name, value in network.named_parameters()}
    for n in range(1, 40):
        kept = min(decay, (1 - 1 / n) ** (gamma + 1))
        for name, value in network.named_parameters():
            weights = drawn.normal(size=value.shape)
            expected[name] = kept * expected[name] + (1 - kept) * weights
            with torch.no_grad():
                value.copy_(torch.from_numpy(weights))
        ema.update(n)
    for name, value in expected.items():
        np.testing.assert_allclose(ema.parameters[name], value, rtol=1e-5, atol=1e-6)


def test_with_gamma_0_it_is_the_mean_of_all_weights_so_far() -> None:
    # (1 - 1/n) is the decay of a running mean.
    network = nn.Linear(4, 4, bias=False)
    ema = EMA(dict(network.named_parameters()), 1.0, 0.0)
    history = []
    for n in range(1, 30):
        with torch.no_grad():
            network.weight.normal_()
        history.append(network.weight.detach().clone())
        ema.update(n)
    torch.testing.assert_close(ema.parameters["weight"], torch.stack(history).mean(0))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8), st.floats(0, 10))
def test_a_network_that_does_not_change_is_its_own_average_to_the_bit(weights: list[float], gamma: float) -> None:
    network = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([weights]))
    ema = EMA(dict(network.named_parameters()), 0.999, gamma)
    for n in range(1, 20):
        ema.update(n)
    assert torch.equal(ema.parameters["weight"], network.weight)


def test_the_first_update_forgets_the_initial_weights() -> None:
    network = _network()
    ema = EMA(dict(network.named_parameters()), 0.9999, 6.94)
    with torch.no_grad():
        network[0].weight.add_(1)
    ema.update(1)
    assert torch.equal(ema.parameters["0.weight"], network[0].weight)


def test_averaged_is_another_network_in_evaluation_mode_with_the_averages_and_the_same_buffers() -> None:
    network = _network()
    ema = EMA(dict(network.named_parameters()), 0.5, 0.0)
    for n in (1, 2):
        with torch.no_grad():
            network[0].weight.add_(n)
        network(torch.randn(8, 3))  # moves the statistics, which are buffers
        ema.update(n)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    averaged = ema.averaged(network)
    assert not averaged.training
    assert not any(value.requires_grad for value in averaged.parameters())
    assert {name: value.tolist() for name, value in averaged.named_parameters()} == {
        name: value.tolist() for name, value in ema.parameters.items()
    }
    assert torch.equal(averaged[1].running_mean, network[1].running_mean)
    # The one in training is as it was, and shares nothing with the copy.
    with torch.no_grad():
        for value in averaged.parameters():
            value.zero_()
    assert network.training
    assert all(value.requires_grad for value in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not torch.equal(ema.parameters["0.weight"], averaged[0].weight)


def test_the_average_shares_no_memory_with_the_network() -> None:
    network = nn.Linear(2, 2)
    ema = EMA(dict(network.named_parameters()), 0.5, 0.0)
    before = ema.parameters["weight"].clone()
    with torch.no_grad():
        network.weight.add_(1)
    assert torch.equal(ema.parameters["weight"], before)


def test_loaded_averages_are_gone_on_from() -> None:
    network = nn.Linear(2, 2)
    ema = EMA(dict(network.named_parameters()), 0.9, 0.0)
    other = {name: torch.full_like(value, 7.0) for name, value in ema.parameters.items()}
    ema.load(other)
    ema.update(2)  # decay 1/2
    torch.testing.assert_close(ema.parameters["weight"], (network.weight.detach() + 7) / 2)
    assert other["weight"].unique().tolist() == [7]
