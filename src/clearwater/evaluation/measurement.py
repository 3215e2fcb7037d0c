"""All figures of a set of samples, each beside its floor.

The floor of a figure is what it is for real images that were held out, in place of the samples, against the same data:
no model of the data should be expected to do better, and most figures are not zero there. Most depend on how many
images there are. So the floor is of as many held-out images as there are samples, or, where there are fewer, of all of
them, and then the figure of as many samples stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace

import torch

from clearwater.errors import InputError
from clearwater.evaluation.figures import FIGURES, MAKERS, Case, Figure, Maker
from clearwater.evaluation.material import Material
from clearwater.evaluation.rows import check_alike
from clearwater.randomness import generator

__all__ = ["Compared", "Measurement", "measured", "refuse_unknown"]


@dataclass(frozen=True)
class Compared:
    """A figure beside its floor.

    Attributes:
        figure: of the samples.
        floor: the same of held-out images; None if there are none, or too few.
        at_floor: the figure of as many samples as the floor's images, if these are fewer.
    """

    figure: Figure
    floor: Figure | None = None
    at_floor: Figure | None = None

    def as_dict(self) -> dict[str, object]:
        """As for JSON: the figure's attributes, with `floor` and `at_floor` as the same of theirs, or None."""
        return {
            **asdict(self.figure),
            "floor": None if self.floor is None else asdict(self.floor),
            "at_floor": None if self.at_floor is None else asdict(self.at_floor),
        }


@dataclass(frozen=True)
class Measurement:
    """All figures of a set of samples.

    Attributes:
        figures: in the order of `FIGURES`.
        left_out: the names of those that cannot be made, and why, in a sentence each.
    """

    figures: tuple[Compared, ...]
    left_out: dict[str, str]


def measured(
    samples: Material,
    data: Material,
    held_out: Material | None = None,
    *,
    features: str,
    only: Collection[str] | None = None,
    k: int = 5,
    seed: int = 0,
    report: Callable[[float], None] | None = None,
) -> Measurement:
    """All figures of samples against data, each beside its floor.

    Args:
        samples: what is measured.
        data: the images that the model was trained on.
        held_out: real images that it was not trained on; without them there are no floors, nor the figures of
            memorisation, whose own floor is that of one half of these against the other.
        features: the name of the extractor.
        only: the names of the figures to make; None for all that can be made.
        k: which neighbour precision and recall, density and coverage look at.
        seed: of what is drawn: parts of sets, directions.
        report: is told the fraction done.

    Raises:
        InputError: features do not fit one another or are not finite, or a figure of `only` cannot be made.
    """
    refuse_unknown(only or ())
    check_alike(samples.features, data.features)
    if held_out is not None:
        check_alike(held_out.features, data.features, whose="the held-out images")
    wanted = {name for name in FIGURES if only is None or name in only}
    makers = [maker for maker in MAKERS if wanted.intersection(maker.names)]
    case = Case(samples, data, held_out, features, k, seed)
    made: dict[str, Compared] = {}
    left_out: dict[str, str] = {}
    for done, maker in enumerate(makers):
        try:
            figures = maker(case)
        except InputError as reason:
            if only is not None:
                raise
            left_out |= dict.fromkeys(maker.names, str(reason))
        else:
            floor, at_floor = _floors(maker, case)
            made |= {
                name: Compared(figure, floor.get(name), at_floor.get(name))
                for name, figure in figures.items()
                if name in wanted
            }
        if report is not None:
            report((done + 1) / len(makers))
    return Measurement(tuple(made[name] for name in FIGURES if name in made), left_out)


def refuse_unknown(names: Collection[str]) -> None:
    """Raises InputError if one of these is the name of no figure."""
    unknown = sorted(set(names) - set(FIGURES))
    if unknown:
        raise InputError(f"There is no figure '{unknown[0]}': there are {', '.join(FIGURES)}.")


def _floors(maker: Maker, case: Case) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """The floors, and the figures of as many samples if these are fewer; nothing of what too few images have."""
    if case.held_out is None:
        return {}, {}
    real, others = case.held_out, case.held_out
    if maker.by_held_out:
        order = torch.randperm(len(real), generator=generator(case.seed, "halves"))
        real, others = (real.part(half.sort().values) for half in order.tensor_split(2))
    real = real.drawn(len(case.samples), case.seed)
    as_many = case.samples.drawn(len(real), case.seed)
    try:
        floor = maker(replace(case, samples=real, held_out=others))
        if len(as_many) == len(case.samples):
            return floor, {}
        return floor, maker(replace(case, samples=as_many, held_out=others))
    except InputError:
        return {}, {}
