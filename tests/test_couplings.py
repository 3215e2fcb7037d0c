"""Couplings of noise and images: the plans, against brute force and POT, and the laws that they must keep."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats

from clearwater.couplings import Independent, OptimalTransport, Sinkhorn
from clearwater.errors import InputError
from clearwater.randomness import RowStreams

ot = pytest.importorskip("ot", reason="POT is not installed: pip install 'clearwater[flow]'")


def drawn(n, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_0 = (
        torch.randn(n, 1, 1, d, generator=generator, dtype=torch.float64)
        + torch.randint(2, (n, 1, 1, 1), generator=generator) * 3
    )
    return x_0, torch.randn(n, 1, 1, d, generator=generator, dtype=torch.float64)


def source(n, seed=0):
    return RowStreams(seed, range(n))


def cost(x_0, eps):
    return float((x_0 - eps).square().sum())


def rows_of(eps, among):
    """Which row of `among` each row of `eps` is."""
    same = (eps[:, None] == among[None]).flatten(2).all(2)
    assert bool((same.sum(1) == 1).all())
    return same.int().argmax(1)


def test_the_exact_assignment_is_the_best_of_all_permutations():
    x_0, eps = drawn(6)
    found = OptimalTransport()(x_0, eps, None, source(6))
    best = min(cost(x_0, eps[list(order)]) for order in permutations(range(6)))
    assert cost(x_0, found) == pytest.approx(best, rel=1e-12)
    assert best < 0.8 * cost(x_0, Independent()(x_0, eps, None, source(6)))


def test_the_exact_assignment_is_that_of_pot():
    x_0, eps = drawn(40, d=7, seed=1)
    even = np.full(40, 1 / 40)
    plan = ot.emd(even, even, ot.dist(x_0.flatten(1).numpy(), eps.flatten(1).numpy()))
    found = rows_of(OptimalTransport()(x_0, eps, None, source(40)), eps)
    assert sorted(found.tolist()) == list(range(40))  # each noise once: the batch's noise stays what it was
    np.testing.assert_array_equal(found, plan.argmax(1))


def test_noises_are_exchanged_within_a_class_alone():
    x_0, eps = drawn(30, seed=2)
    labels = torch.arange(30) % 3
    found = rows_of(OptimalTransport()(x_0, eps, labels, source(30)), eps)
    assert torch.equal(labels[found], labels)
    for each in range(3):
        group = labels == each
        alone = OptimalTransport()(x_0[group], eps[group], None, source(10))
        assert torch.equal(alone, eps[found[group]])
    everywhere = OptimalTransport()(x_0, eps, None, source(30))
    assert cost(x_0, everywhere) < cost(x_0, eps[found]) < cost(x_0, eps)


def test_sinkhorn_draws_from_its_plan():
    x_0, eps = drawn(4, seed=3)
    distances = torch.cdist(x_0.flatten(1), eps.flatten(1)).square()
    regularization = 0.3
    rows, columns = distances.mean(1, keepdim=True), distances.mean(0, keepdim=True)
    spread = float((distances - rows - columns + distances.mean()).square().mean().sqrt())
    even = np.full(4, 0.25)
    # The plan by Sinkhorn's own iteration, written out.
    kernel, u = np.exp(-distances.numpy() / (regularization * spread)), np.ones(4)
    for _ in range(2000):
        u = even / (kernel @ (even / (kernel.T @ u)))
    plan = u[:, None] * kernel * (even / (kernel.T @ u))
    counts, draws = np.zeros((4, 4)), 2000
    for seed in range(draws):
        found = rows_of(Sinkhorn(regularization)(x_0, eps, None, source(4, seed)), eps)
        counts[np.arange(4), found.numpy()] += 1
    for row, expected in zip(counts, plan * 4 * draws, strict=True):
        kept = expected > 5
        statistic = ((row - expected)[kept] ** 2 / expected[kept]).sum()
        assert stats.chi2.sf(statistic, max(int(kept.sum()) - 1, 1)) > 1e-4


def test_sinkhorn_goes_from_the_assignment_to_independence():
    x_0, eps = drawn(50, seed=4)
    costs = [cost(x_0, Sinkhorn(share)(x_0, eps, None, source(50))) for share in (0.05, 0.5, 100.0)]
    exact, independent = cost(x_0, OptimalTransport()(x_0, eps, None, source(50))), cost(x_0, eps)
    assert exact <= costs[0] * 1.0001 < costs[1] < costs[2]
    assert costs[0] < 1.02 * exact
    assert costs[2] == pytest.approx(independent, rel=0.2)


def test_a_regularization_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"at least 0\.05"):
        Sinkhorn(0.0)


def test_the_plan_does_not_depend_on_what_is_common_to_a_row_or_a_column():
    """Far images, as those of many pixels are, leave the plan what it was."""
    x_0, eps = drawn(20, seed=6)
    away = torch.zeros(20, 1, 1, 3, dtype=torch.float64)
    away[:, 0, 0, 0] = torch.arange(20, dtype=torch.float64) * 50

    def in_four(x, more):
        return torch.cat([x, more[..., :1]], dim=-1)

    near = Sinkhorn()(in_four(x_0, 0 * away), in_four(eps, 0 * away), None, source(20))
    far = Sinkhorn()(in_four(x_0, away), in_four(eps, 0 * away), None, source(20))
    assert torch.equal(near, far)


@pytest.mark.parametrize(("make", "missing"), [(OptimalTransport, "scipy"), (Sinkhorn, "POT")])
def test_a_missing_package_is_named_before_anything_is_trained(make, missing, monkeypatch):
    monkeypatch.setattr("clearwater.couplings.find_spec", lambda _: None)
    with pytest.raises(InputError, match=missing):
        make()


@pytest.mark.parametrize("coupling", [Independent(), OptimalTransport(), Sinkhorn()])
def test_noise_stays_normal_and_the_same_numbers_make_the_same_pairs(coupling):
    x_0, eps = drawn(64, d=2, seed=5)
    assert torch.equal(coupling(x_0, eps, None, source(64)), coupling(x_0, eps, None, source(64)))
    found = [coupling(*drawn(64, d=2, seed=seed), None, source(64, seed)) for seed in range(60)]
    assert stats.kstest(torch.cat(found).flatten().numpy(), "norm").pvalue > 1e-3
