"""Whether a model has learned its training images by heart: whether its samples are nearer to them than new images are.

How far a sample is from its nearest training image says nothing by itself. Held-out images, which are of the same
distribution and which the model has not seen, say how near a new image comes by chance; the test of Meehan, Chaudhuri
& Dasgupta (2020), "A non-parametric test to detect data-copying in generative models", compares the two sets of
distances. It takes held-out images that are no near copies of training images (the next frame of the same film).

Samples may also be nearer because they are more alike than real images are, blurred or of the commonest kinds: these
are near to many training images, a copy to one. So distances can be taken relative to that of the next nearest image,
whose distribution does not depend on how crowded the place is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.neighbours import neighbours
from clearwater.evaluation.rows import BLOCK, Rows, check_alike

__all__ = ["Nearest", "closer_than_held_out", "copies", "copying_score", "nearest_training"]

_FEWEST = 20  # samples in a cell, below which a rank sum is not yet normal


@dataclass(frozen=True)
class Nearest:
    """The training image that is nearest to each image of a set.

    Attributes:
        distance: how far it is, in the units of the features, or relative to a farther one; float64, shape (N,).
        index: its number, int64, shape (N,).
    """

    distance: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.distance)

    def __getitem__(self, rows: Tensor) -> Nearest:
        """Those of some of the images."""
        return Nearest(self.distance[rows], self.index[rows])


def nearest_training(images: Rows, training: Rows, *, relative_to: int = 1, block: int = BLOCK) -> Nearest:
    """The nearest training image of each image, over all of them.

    Args:
        images: features, or pixels (`PixelRows`), shape (N, D).
        training: the same of the training images, shape (M, D); may be mapped from a file.
        relative_to: 1 for distances as they are; 2 for them as a share, 0 to 1, of that of the second nearest training
            image, and so on. Where training images have near copies among themselves, take more than those.
        block: rows of either that are compared at once.
    """
    check_alike(images, training, least=1)
    if not 1 <= relative_to <= len(training):
        raise InputError(
            f"There is no nearest image number {relative_to} of {len(training)} training images: "
            f"take 1 to {len(training)}."
        )
    squared, index = neighbours(images, training, relative_to, block=block)
    distances = squared.sqrt()
    nearest = distances[:, 0]
    if relative_to > 1:
        nearest = torch.where(nearest > 0, nearest / distances[:, -1], 0.0)
    return Nearest(nearest, index[:, 0])


def closer_than_held_out(samples: Nearest, held_out: Nearest) -> Estimate:
    """How often a sample is nearer to its nearest training image than a held-out image to its own, of all such pairs.

    1/2 for a model that draws new images, towards 1 for one that copies or whose samples are too much alike, towards 0
    for one whose samples are like no training image. Pairs at the same distance count half. The error is DeLong's
    (1988), for new samples and new held-out images and these training images.
    """
    _check(samples, held_out)
    of_samples, of_held_out = _wins(samples.distance, held_out.distance), _wins(held_out.distance, samples.distance)
    variance = float(of_samples.var()) / len(samples) + float(of_held_out.var()) / len(held_out)
    return Estimate.normal(float(of_samples.mean()), math.sqrt(variance), least=0, most=1)


def copies(samples: Nearest, held_out: Nearest, *, quantile: float = 0.01) -> Estimate:
    """The share of samples that are nearer to a training image than all but `quantile` of held-out images are.

    For a model that draws new images it is about `quantile`, or 1 in m + 1 of m held-out images if that is more. It
    finds a few copies among many samples, which `closer_than_held_out` does not. The limit is the distance of a few
    held-out images, so it has an error too; the interval supposes that, as the limit moves, the odds of both shares
    move by one factor.
    """
    _check(samples, held_out)
    if not 0 < quantile < 1:
        raise InputError(f"A share of {quantile} of the held-out images is no limit: take one between 0 and 1.")
    rank = min(max(1, round(quantile * (len(held_out) + 1))), len(held_out))
    expected = rank / (len(held_out) + 1)  # of a new image: it is as likely to be in any place among them
    limit = held_out.distance.sort().values[rank - 1]
    share = float((samples.distance < limit).double().mean())
    # At a share of 0 or 1 that supposition would give the limit no error at all.
    of_limit = max(1.0, share * (1 - share) / (expected * (1 - expected)))
    return Estimate.proportion(share, 1 / (1 / len(samples) + of_limit / len(held_out)))


def copying_score(samples: Nearest, held_out: Nearest, *, cells: Tensor | None = None) -> Estimate:
    """C_T of Meehan et al.: the Mann-Whitney statistic of the distances, in standard deviations of what chance gives.

    Far below 0, say -3, samples are nearer to training images than held-out images are: the model copies. Far above 0
    they are farther: it underfits. Near 0, normal with deviation 1, for one that draws new images. It grows with the
    square root of the number of images, so a small tendency in many images is found too. Samples that are too much
    alike also have one far below 0; that of distances `relative_to` the second nearest then is near it.

    Args:
        samples: of the samples.
        held_out: of images that the model was not trained on.
        cells: the number of each training image's cell, int64, shape (M,): its class, or `cells_of`. The score then
            is made among the images whose nearest training image is in one cell, and is the mean over the cells with
            20 samples and 2 held-out images or more, weighted with their shares of the held-out images (equation 3):
            a model that copies in some places and underfits in others is found. Its deviation by chance is below 1.

    Returns:
        The score; its error is that of the true one, not the 1 of chance.
    """
    _check(samples, held_out)
    if cells is None:
        return Estimate.normal(*_score(samples.distance, held_out.distance))
    of_samples, of_held_out = cells[samples.index], cells[held_out.index]
    scores, errors, weights = [], [], []
    for cell in range(int(cells.max()) + 1):
        ours, theirs = samples.distance[of_samples == cell], held_out.distance[of_held_out == cell]
        if len(ours) >= _FEWEST and len(theirs) >= 2:
            score, error = _score(ours, theirs)
            scores.append(score)
            errors.append(error)
            weights.append(float(len(theirs)))
    if not scores:
        raise InputError(
            f"No cell has {_FEWEST} samples and 2 held-out images, of {len(samples)} and {len(held_out)} in all: "
            "take fewer cells, or more images."
        )
    shares = [weight / sum(weights) for weight in weights]
    mean = sum(share * score for share, score in zip(shares, scores, strict=True))
    return Estimate.normal(mean, math.hypot(*(share * error for share, error in zip(shares, errors, strict=True))))


def _check(samples: Nearest, held_out: Nearest) -> None:
    if min(len(samples), len(held_out)) < 2:
        raise InputError(
            f"Whether samples are copies takes at least two of them and two held-out images, not {len(samples)} and "
            f"{len(held_out)}."
        )


def _wins(ours: Tensor, theirs: Tensor) -> Tensor:
    """The share of `theirs` that each of `ours` is below; the same counts half."""
    ordered = theirs.sort().values
    above = len(ordered) - torch.searchsorted(ordered, ours, right=True)
    not_below = len(ordered) - torch.searchsorted(ordered, ours)
    return (above + not_below).double() / (2 * len(ordered))


def _score(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The statistic of one cell and its error."""
    n, m = len(ours), len(theirs)
    wins, losses = _wins(ours, theirs), _wins(theirs, ours)
    both = n + m
    distances = torch.cat([ours, theirs]).sort().values
    same = torch.searchsorted(distances, distances, right=True) - torch.searchsorted(distances, distances)
    tied = float((same.double().square() - 1).sum()) / (both * (both - 1))  # Σ (t³ - t) over groups of t equal ones
    # What U / nm varies by if all orders are equally likely; none if all distances are the same.
    deviation = math.sqrt(max(0.0, both + 1 - tied) / (12 * n * m))
    if deviation == 0:
        return 0.0, 0.0
    error = math.sqrt(float(wins.var()) / n + float(losses.var()) / m)
    return (0.5 - float(wins.mean())) / deviation, error / deviation
