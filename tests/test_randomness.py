"""Random numbers as a function of a seed and of what they are for."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from clearwater.randomness import ImageNoise, derived_seed, generator

words = st.integers(0, 2**32 - 1)
keys = st.lists(words, max_size=4).map(tuple)


@settings(deadline=None)
@given(st.sets(st.tuples(words, words, words), min_size=2, max_size=20))
def test_different_seeds_and_keys_give_different_seeds(different):
    assert len({derived_seed(*key) for key in different}) == len(different)


@settings(deadline=None)
@given(words, keys, keys)
@example(3, (), (0,))
@example(3, (0,), (0, 0))
@example(3, (2,), (2, 0))
@example(3, (2**32,), (0, 1))
def test_keys_of_different_lengths_give_different_seeds(seed, first, second):
    assert (derived_seed(seed, *first) == derived_seed(seed, *second)) == (first == second)


def test_a_large_seed_is_not_a_small_seed_with_a_key():
    assert derived_seed(5 + 2**32, 7) != derived_seed(5, 1, 7)


@settings(deadline=None)
@given(st.integers(0, 2**64), keys)
def test_a_derived_seed_is_a_63_bit_number_that_is_always_the_same(seed, key):
    derived = derived_seed(seed, *key)
    assert 0 <= derived < 2**63
    assert derived == derived_seed(seed, *key)


def test_neighbouring_keys_give_seeds_that_share_no_bits_but_by_chance():
    seeds = [derived_seed(0, 1, step) for step in range(2000)]
    changed = sum((a ^ b).bit_count() for a, b in pairwise(seeds))
    assert stats.binomtest(changed, 63 * 1999).pvalue > 1e-3


def test_a_stream_does_not_depend_on_what_was_drawn_from_others_before():
    alone = torch.randn(5, generator=generator(1, 2))
    other = generator(1, 3)
    torch.randn(100, generator=other)
    torch.randn(100)
    assert torch.equal(torch.randn(5, generator=generator(1, 2)), alone)
    assert not torch.equal(torch.randn(5, generator=generator(1, 3)), alone)


def test_streams_of_different_keys_are_uncorrelated():
    a, b = (torch.randn(20_000, generator=generator(0, key)) for key in (0, 1))
    assert abs(float((a * b).mean())) < 4 / math.sqrt(20_000)


@pytest.mark.parametrize("beside", [[0, 1, 2, 3, 4], [3], [7, 3], [4, 3, 2], [3, 10**9]])
def test_an_image_has_its_noise_whatever_it_is_made_beside(beside):
    alone, together = ImageNoise(11, [3], (2, 5, 3), "cpu"), ImageNoise(11, beside, (2, 5, 3), "cpu")
    row = beside.index(3)
    for _ in range(4):
        assert torch.equal(together()[row], alone()[0])


def test_images_seeds_and_calls_have_different_noise():
    noise = ImageNoise(11, [0, 1], (4,), "cpu")
    first, second = noise(), noise()
    other = ImageNoise(12, [0, 1], (4,), "cpu")()
    rows = [tuple(row.tolist()) for row in torch.cat([first, second, other])]
    assert len(set(rows)) == 6


def test_image_noise_is_standard_normal_and_independent_between_pixels_images_and_calls():
    noise = ImageNoise(0, range(100), (1, 10, 10), "cpu")
    drawn = torch.stack([noise() for _ in range(4)]).double()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    n = drawn.numel()
    assert abs(float(drawn.mean())) < 4 / math.sqrt(n)
    assert abs(float(drawn.var()) - 1) < 4 * math.sqrt(2 / n)
    for a, b in (
        (drawn[1:], drawn[:-1]),
        (drawn[:, 1:], drawn[:, :-1]),
        (drawn[..., 1:], drawn[..., :-1]),
        (drawn[..., 1:, :], drawn[..., :-1, :]),
    ):
        assert abs(float((a * b).mean())) < 4 / math.sqrt(a.numel())


def test_image_noise_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    ImageNoise(1, [0, 1], (8,), "cpu")()
    generator(5, 6)
    derived_seed(5, 6)
    assert torch.equal(torch.randn(3), expected)
