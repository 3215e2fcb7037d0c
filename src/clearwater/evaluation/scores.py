"""What a classifier says of samples: whether it is sure of each and of many kinds of them, and of which kinds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.rows import check_rows
from clearwater.randomness import generator

__all__ = ["Balance", "SplitScore", "class_balance", "inception_score", "inception_score_of_splits"]


def inception_score(probabilities: Tensor) -> Estimate:
    """exp E KL(p(y|x) ‖ p(y)) over all samples (Salimans et al. 2016), from 1 to the number of classes.

    It does not look at the data at all: a model that draws one perfect image of each class has the highest. Of finitely
    many samples it is too small. The error is that of the mean of KL(p(y|x) ‖ p(y)), times the score: the derivative
    by p(y) is zero.

    Args:
        probabilities: p(y|x) of each sample, shape (N, C), N ≥ 2.
    """
    divergences = _divergences(_checked(probabilities))
    mean, error = float(divergences.mean()), float(divergences.std()) / math.sqrt(len(divergences))
    of_mean = Estimate.normal(mean, error, least=0, most=math.log(probabilities.shape[1]))
    low, high = of_mean.interval
    return Estimate(math.exp(mean), math.exp(mean) * error, (math.exp(low), math.exp(high)))


@dataclass(frozen=True)
class SplitScore:
    """The Inception score as it is customarily given.

    Attributes:
        mean: over the splits. Each has fewer samples than there are, so it is smaller than the score of all.
        deviation: between the splits, of which there are N in the divisor; no standard error of the mean.
        splits: how many.
    """

    mean: float
    deviation: float
    splits: int


def inception_score_of_splits(probabilities: Tensor, *, splits: int = 10, seed: int = 0) -> SplitScore:
    """The mean score of `splits` parts of the samples, which are shuffled: sorted by class, each part would have one.

    Args:
        probabilities: p(y|x) of each sample, shape (N, C), N ≥ splits.
        splits: how many.
        seed: of the order.
    """
    p = _checked(probabilities)
    if not 1 <= splits <= len(p):
        raise InputError(f"{len(p)} samples cannot be split into {splits} parts: take 1 to {len(p)}.")
    order = torch.randperm(len(p), generator=generator(seed, "splits")).to(p.device)
    scores = torch.stack([_divergences(part).mean().exp() for part in p[order].tensor_split(splits)])
    return SplitScore(float(scores.mean()), float(scores.std(correction=0)), splits)


@dataclass(frozen=True)
class Balance:
    """Which classes samples are of, beside the data.

    Attributes:
        apart: half the sum of the differences of the shares: the share of samples that would have to be of another
            class for both to have the same, 0 to 1 (total variation).
        samples: each class's share of the samples, float64, shape (C,).
        data: its share of the data, float64, shape (C,).
    """

    apart: Estimate
    samples: Tensor
    data: Tensor


def class_balance(samples: Tensor, data: Tensor, classes: int) -> Balance:
    """How far the shares of the classes are from those of the data.

    The labels of both should come from one classifier, whose mistakes then are in both. Of finitely many images the
    distance is too large: n samples and n images of the data, of equally many of each of K classes, are about √(K/πn)
    apart.

    Args:
        samples: class of each, int64, shape (N,), 0 to classes - 1; N ≥ 2.
        data: class of each, int64, shape (M,); M ≥ 2.
        classes: how many there are.
    """
    shares = []
    for labels, whose in ((samples, "the samples"), (data, "the data")):
        check_rows(labels[:, None], whose)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"A label of {whose} is {low if low < 0 else high}, but there are {classes} classes, numbered from 0."
            )
        shares.append(torch.bincount(labels, minlength=classes).double() / len(labels))
    apart = shares[0] - shares[1]
    signs = apart.sign()
    variance = sum(
        float((share * signs.square()).sum() - (share * signs).sum().square()) / (4 * (len(labels) - 1))
        for share, labels in zip(shares, (samples, data), strict=True)
    )
    value = float(apart.abs().sum()) / 2
    return Balance(Estimate.normal(value, math.sqrt(max(0.0, variance)), least=0, most=1), shares[0], shares[1])


def _checked(probabilities: Tensor) -> Tensor:
    check_rows(probabilities, "the samples")
    p = probabilities.double()
    if bool((p < 0).any()) or float((p.sum(1) - 1).abs().max()) > 1e-3:
        raise InputError("A sample's probabilities of the classes are below 0 or do not add up to 1: give softmax's.")
    return p


def _divergences(p: Tensor) -> Tensor:
    """KL(p(y|x) ‖ p(y)) of each sample, shape (N,)."""
    return (torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1)
