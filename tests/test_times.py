"""Time samplers: which levels a batch is trained at, and with what weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from clearwater.chains import chain, cosine
from clearwater.errors import InputError
from clearwater.times import LogitNormal, LogNormal, LossAware, LowDiscrepancy, Mode, Shifted, Uniform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("times", [Uniform(), LowDiscrepancy()], ids=["uniform", "low discrepancy"])
@pytest.mark.parametrize("position", [0, 3])
def test_every_place_in_a_batch_is_uniform_over_the_levels(times, position):
    shared = generator(3)
    drawn = torch.stack([times(5, 10, shared)[0] for _ in range(4000)])[:, position]
    counts = torch.bincount(drawn, minlength=11)
    assert int(counts[0]) == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3


def test_uniform_levels_are_independent():
    """Pairs of neighbours in a batch are uniform over the 5 × 5 combinations."""
    drawn = Uniform()(20_000, 5, generator(4))[0].reshape(-1, 2) - 1
    pairs = torch.bincount(5 * drawn[:, 0] + drawn[:, 1], minlength=25)
    assert stats.chisquare(pairs.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_low_discrepancy_takes_every_level_once_in_a_batch_of_as_many(T):
    for seed in range(20):
        assert sorted(LowDiscrepancy()(T, T, generator(seed))[0].tolist()) == list(range(1, T + 1))


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 10**6))
def test_low_discrepancy_takes_no_level_more_than_its_share(n, T, seed):
    """n points at equal distances on a circle: an arc of 1/T holds the whole number below n/T, or the one above."""
    counts = torch.bincount(LowDiscrepancy()(n, T, generator(seed))[0], minlength=T + 1)
    assert int(counts[0]) == 0
    assert len(counts) == T + 1
    assert set(counts[1:].tolist()) <= {n // T, -(-n // T)}


@pytest.mark.parametrize("times", [Uniform(), LowDiscrepancy()], ids=["uniform", "low discrepancy"])
def test_the_first_and_the_last_level_are_drawn(times):
    drawn = set(torch.cat([times(7, 4, generator(seed))[0] for seed in range(50)]).tolist())
    assert drawn == {1, 2, 3, 4}


def fed(sizes, history=10, uniform=0.001):
    """An importance sampler that saw these losses at levels 1, 2, …, each `history` times."""
    times = LossAware(len(sizes), history, uniform)
    for _ in range(history):
        times.observe(torch.arange(1, len(sizes) + 1), torch.tensor(sizes))
    return times


@pytest.mark.parametrize(
    "times",
    [
        Uniform(),
        LowDiscrepancy(),
        LogitNormal(),
        Mode(),
        Shifted(Uniform(), cosine(7), 3.0),
        LossAware(7),
        fed([1.0, 5.0, 0.1, 2.0, 2.0, 0.5, 9.0]),
    ],
    ids=["uniform", "low discrepancy", "logit-normal", "mode", "shifted", "importance at first", "importance"],
)
def test_levels_are_whole_numbers_of_the_chain_and_weights_are_float64(times):
    drawn, weight = times(500, 7, generator())
    assert (drawn.dtype, drawn.shape) == (torch.int64, (500,))
    assert (weight.dtype, weight.shape) == (torch.float64, (500,))
    assert set(drawn.tolist()) == set(range(1, 8))


@pytest.mark.parametrize("times", [Uniform(), LowDiscrepancy(), LogitNormal(0.7, 0.5)])
def test_samplers_whose_density_is_meant_do_not_weigh(times):
    assert times(100, 9, generator())[1].tolist() == [1.0] * 100


# --- the logit-normal


@pytest.mark.parametrize(("mean", "std", "T"), [(0.0, 1.0, 10), (-0.6, 0.4, 7), (1.0, 2.0, 25)])
def test_the_logit_normal_has_the_published_distribution(mean, std, T):
    """P(k) is that of a logit-normal between (k - 1)/T and k/T (Esser et al. 2024, section 3.1)."""
    drawn, _ = LogitNormal(mean, std)(20_000, T, generator(6))
    with np.errstate(divide="ignore"):
        below = stats.norm(mean, std).cdf(special.logit(np.arange(T + 1) / T))
    expected = 20_000 * np.diff(below)
    counts = torch.bincount(drawn, minlength=T + 1)[1:].numpy()
    likely = expected > 5  # what chi-square's distribution asks for
    assert counts[~likely].sum() <= 60
    assert expected[~likely].sum() < 20
    observed = np.append(counts[likely], counts[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum())
    keep = wanted > 0
    assert stats.chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum()).pvalue > 1e-3


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
def test_a_logit_normal_without_spread_is_refused(std):
    with pytest.raises(InputError, match="above zero"):
        LogitNormal(0.0, std)


# --- importance sampling


def by_hand(seen, history, uniform):
    """Nichol & Dhariwal 2021, eq. 18, of the lists of losses that were seen at each level."""
    T = len(seen)
    sizes = [math.sqrt(sum(loss * loss for loss in losses[-history:]) / history) for losses in seen]
    if min(map(len, seen)) < history or sum(sizes) == 0:
        return [1 / T] * T
    return [(1 - uniform) * size / sum(sizes) + uniform / T for size in sizes]


@settings(deadline=None)
@given(
    T=st.integers(1, 4),
    history=st.integers(1, 3),
    uniform=st.floats(0.001, 1),
    seen=st.lists(st.tuples(st.integers(1, 4), st.floats(0, 1e3, width=32) | st.just(0.0)), max_size=40),
    batch=st.integers(1, 7),
)
def test_probabilities_are_the_root_mean_squares_of_the_last_losses(T, history, uniform, seen, batch):
    times, losses = LossAware(T, history, uniform), [[] for _ in range(T)]
    seen = [(min(k, T), loss) for k, loss in seen]
    for first in range(0, len(seen), batch):
        part = seen[first : first + batch]
        times.observe(torch.tensor([k for k, _ in part]), torch.tensor([loss for _, loss in part]))
        for k, loss in part:
            losses[k - 1].append(loss)
        assert times.probabilities.tolist() == pytest.approx(by_hand(losses, history, uniform), rel=1e-12, abs=1e-300)


def test_levels_are_uniform_until_the_last_of_them_was_seen_often_enough():
    times = LossAware(3, history=2, uniform=0.1)
    times.observe(torch.tensor([1, 2, 2, 1, 3, 1]), torch.tensor([8.0, 3.0, 3.0, 8.0, 1.0, 8.0]))
    assert times.probabilities.tolist() == [1 / 3] * 3
    assert times(9, 3, generator())[1].tolist() == [1.0] * 9
    times.observe(torch.tensor([3]), torch.tensor([1.0]))
    expected = [0.9 * share + 0.1 / 3 for share in (8 / 12, 3 / 12, 1 / 12)]
    assert times.probabilities.tolist() == pytest.approx(expected, rel=1e-14)


def test_losses_beyond_the_history_are_forgotten():
    times = fed([1.0, 1.0], history=3)
    times.observe(torch.tensor([2, 2]), torch.tensor([7.0, 7.0]))
    with_one_left = math.sqrt((1 + 49 + 49) / 3)
    shares = times.probabilities
    assert float(shares[1] / shares[0]) == pytest.approx(with_one_left, rel=2e-2)
    times.observe(torch.tensor([2]), torch.tensor([7.0]))
    assert times.probabilities.tolist() == fed([1.0, 7.0], history=3).probabilities.tolist()


def test_without_any_loss_levels_are_uniform():
    assert fed([0.0, 0.0, 0.0, 0.0]).probabilities.tolist() == [0.25] * 4


def test_a_level_without_loss_is_drawn_as_often_as_its_even_share_says():
    assert float(fed([0.0, 3.0], uniform=0.2).probabilities[0]) == pytest.approx(0.1, rel=1e-14)


sizes = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=8)


@settings(deadline=None)
@given(sizes, st.floats(0.01, 1), st.integers(0, 10**6))
def test_the_weights_of_importance_keep_the_mean_over_the_levels(sizes, uniform, seed):
    """Σ p w f is the mean of f, and the draws are those of p: a level's interval holds n p points, or one beside."""
    times, T, n = fed(sizes, uniform=uniform), len(sizes), 3000
    drawn, weight = times(n, T, generator(seed))
    p = times.probabilities
    assert float(p.sum()) == pytest.approx(1, rel=1e-12)
    counts = torch.bincount(drawn, minlength=T + 1)[1:]
    assert bool(((counts - n * p).abs() <= 1 + 1e-6).all())
    torch.testing.assert_close(weight, 1 / (T * p[drawn - 1]), rtol=1e-12, atol=0)
    f = torch.linspace(-2, 5, T, dtype=torch.float64).exp()
    w = torch.full((T,), math.nan, dtype=torch.float64)
    w[drawn - 1] = weight
    assert bool((w <= (1 + 1e-12) / uniform)[counts > 0].all())
    if bool((counts > 0).all()):
        assert float((p * w * f).sum()) == pytest.approx(float(f.mean()), rel=1e-12)
    # And so of a batch: each level's mean of w · 1{k} is 1/T, but for the one point.
    of_batch = torch.zeros(T, dtype=torch.float64).index_add_(0, drawn - 1, weight / n)
    assert bool(((of_batch - 1 / T).abs() <= (1 + 1e-6) / (T * p * n)).all())


@pytest.mark.parametrize("position", [0, 3])
def test_every_place_in_a_batch_has_the_distribution_of_importance(position):
    times, shared = fed([1.0, 5.0, 0.1, 2.0, 4.0]), generator(3)
    drawn = torch.stack([times(4, 5, shared)[0] for _ in range(4000)])[:, position]
    counts = torch.bincount(drawn, minlength=6)[1:].numpy()
    assert stats.chisquare(counts, 4000 * times.probabilities.numpy()).pvalue > 1e-3


def test_what_importance_remembers_gives_the_same_draws_also_after_more_losses():
    times = fed([1.0, 5.0, 0.1])
    times.observe(torch.tensor([2]), torch.tensor([50.0]))  # the place in the history is remembered too
    state = times.state()
    before = {name: value.clone() for name, value in state.items()}
    other = LossAware(3)
    other.load(state)
    for step in range(12):
        ours, theirs = times(8, 3, generator(step)), other(8, 3, generator(step))
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
        for sampler in (times, other):
            sampler.observe(ours[0], ours[0].double() ** 2 + step)
    assert times.probabilities.tolist() == other.probabilities.tolist() != fed([1.0, 5.0, 0.1]).probabilities.tolist()
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_samplers_without_a_memory_have_no_state():
    for times in (Uniform(), LowDiscrepancy(), LogitNormal()):
        times.observe(torch.tensor([1]), torch.tensor([3.0]))
        assert times.state() == {}


def test_importance_of_another_chain_is_refused():
    with pytest.raises(InputError, match="made for 3 levels, not for 4"):
        fed([1.0, 1.0, 1.0])(2, 4, generator())
    with pytest.raises(InputError, match=r"\(3, 10\).*\(4, 10\)"):
        LossAware(4).load(fed([1.0, 1.0, 1.0]).state())


@pytest.mark.parametrize("wrong", [(0, 10, 0.1), (3, 0, 0.1), (3, 10, 0.0), (3, 10, 1.5), (3, 10, math.nan)])
def test_importance_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="history of at least 1"):
        LossAware(*wrong)


def test_log_normal_draws_the_level_next_to_a_normal_log_sigma():
    """Each level's probability is the normal mass between the middles to its neighbours, the ends' all beyond."""
    chain = cosine(12)
    known = -chain.levels.log_snr[1:].numpy() / 2
    edges = np.concatenate([[-np.inf], (known[1:] + known[:-1]) / 2, [np.inf]])
    expected = np.diff(stats.norm.cdf(edges, -0.4, 0.9))
    k, weight = LogNormal(chain, -0.4, 0.9)(40_000, 12, generator(5))
    counts = torch.bincount(k, minlength=13)[1:].numpy()
    assert stats.chisquare(counts, expected * 40_000).pvalue > 1e-3
    assert weight.unique().tolist() == [1.0]
    with pytest.raises(InputError, match="above zero"):
        LogNormal(chain, 0.0, 0.0)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29, 2 / (math.pi - 2)])
def test_mode_times_have_the_density_of_the_paper(scale):
    """Esser et al. 2024, eq. 20: t = f(u) falls from 1 to 0, so P(t > f(u)) = u."""
    drawn = (Mode(scale)(20_000, 10**6, generator(1))[0] - 0.5) / 10**6

    def f(u):
        return 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)

    u = np.linspace(0, 1, 4001)
    assert np.all(np.diff(f(u)) <= 1e-12)
    assert stats.kstest(drawn.numpy(), lambda t: 1 - np.interp(t, f(u)[::-1], u[::-1])).pvalue > 1e-3


def test_mode_draws_the_middle_more_often_and_leaves_no_end_out():
    drawn = torch.bincount(Mode()(60_000, 5, generator(2))[0], minlength=6)[1:] / 60_000
    assert drawn[2] > 0.25
    assert drawn.min() > 0.08  # of the logit-normal it is 0.083 at both ends, and falls to zero there
    with pytest.raises(InputError, match="goes from -1 to"):
        Mode(1.8)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shifted_times_are_moved_in_log_snr(shift):
    """On the flow log-SNR is 2 log((1 - t) / t): a shift takes 2 log(shift) from it (Esser et al. 2024, eq. 23)."""
    fine = chain("flow", 10**5)
    drawn = (Shifted(Uniform(), fine, shift)(20_000, 10**5, generator(3))[0] - 0.5) / 10**5
    moved = torch.special.logit(drawn) - math.log(shift)
    assert stats.kstest(torch.sigmoid(moved).numpy(), "uniform").pvalue > 1e-3
    of_middle = Shifted(LogitNormal(0.3, 0.8), fine, shift)(20_000, 10**5, generator(4))[0]
    logit = torch.special.logit((of_middle - 0.5) / 10**5)
    assert stats.kstest(logit.numpy(), "norm", args=(0.3 + math.log(shift), 0.8)).pvalue > 1e-3
    with pytest.raises(InputError, match="above zero"):
        Shifted(Uniform(), fine, 0.0)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_shift_takes_as_much_from_the_log_snr_of_every_level_on_any_chain(name, shift):
    """What shifts them is told by the levels that come: log-SNR falls by 2 log(shift), up to a level."""
    on = chain(name, 4000)
    log_snr = on.levels.log_snr
    plain = LogitNormal()(20_000, 4000, generator(5))[0]
    shifted = Shifted(LogitNormal(), on, shift)(20_000, 4000, generator(5))[0]  # of the same numbers
    inner = (shifted > 40) & (shifted < 3960) & (plain > 40) & (plain < 3960)
    assert inner.float().mean() > 0.9
    fell = (log_snr[plain] - log_snr[shifted])[inner]
    width = torch.maximum((log_snr[:-1] - log_snr[1:])[plain - 1], (log_snr[:-1] - log_snr[1:])[shifted - 1])[inner]
    assert bool(((fell - 2 * math.log(shift)).abs() <= 1.05 * width).all())
