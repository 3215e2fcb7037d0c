"""How `clearwater compare` finds what it says of a run. Each figure is kept with the run as soon as it is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from clearwater.cli.findings import Bits, Distance, Found, Way
from clearwater.cli.grids import sampling_chain
from clearwater.cli.making import Making
from clearwater.cli.models import image_shape, load_network, optimal_variance
from clearwater.cli.options import BATCH
from clearwater.cli.progress import Report, say
from clearwater.cli.repeating import if_it_can_be_kept
from clearwater.cli.subjects import Moment, Subject
from clearwater.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from clearwater.denoisers import NetworkDenoiser
    from clearwater.evaluation import Material

__all__ = ["Meter", "bound_images", "compared", "evaluations_of"]

_KIND = "comparison"
_SHOWN = 12  # images in a row of the picture
_BOUND_IMAGES, _BOUND_EVALUATIONS = 1000, 40  # of the bound: images, and evaluations for each
_FIT_EVALUATIONS = 128 * 250  # of its variance
_BOUND_MADE = "1"  # the way of it: another one does not take this one's figures for its own


class Meter:
    """How much is done of all evaluations of the network, on a live line.

    Args:
        line: the live line.
        total: of how many.
    """

    def __init__(self, line: Report, total: int) -> None:
        self._line, self._total, self._begun = line, total, 0

    def part(self, evaluations: int, text: str) -> Callable[[float], None]:
        """To be told the fraction that is done of the next part, once those before it are done."""
        before = self._begun
        self._begun += evaluations

        def report(fraction: float) -> None:
            self._line((before + fraction * evaluations) / self._total, text)

        report(0.0)
        return report


def bound_images(way: Way) -> tuple[str, int]:
    """Of which kind the images of the bound are, in a word, and how many."""
    without = "training" if way.own else "given"
    return without if way.real.held_out is None else "held-out", min(_BOUND_IMAGES, len(_of_bound(way)))


def evaluations_of(of: Subject, way: Way) -> int:
    """How many evaluations of the network all of it takes, one for one image."""
    samples = sum(way.steps) + way.middle * len(of.moments)
    bound = _FIT_EVALUATIONS + _BOUND_EVALUATIONS * bound_images(way)[1]
    return way.n * samples + _SHOWN * way.middle + bound


def compared(of: Subject, way: Way, meter: Meter) -> Found:
    """All that is compared of a run: what is kept with it, and what is missing, which is made."""

    @cache
    def network() -> NetworkDenoiser:  # only if something is missing
        return load_network(of.folder, way.device, variance=None, clip=True)

    end = Moment(of.place.step, of.place.seconds)
    images = _shown(of, way, network, meter)
    by_evaluations = [_distance(of, way, network, of.weights, end, each, meter) for each in way.steps]
    on_the_way = [_at_moment(of, way, moment, meter) for moment in of.moments]
    at_end = next(each for each in by_evaluations if each.evaluations == way.middle)
    by_time = [*(each for each in on_the_way if each is not None), at_end]
    return Found(of, by_evaluations, by_time, _bound(of, way, meter), images)


def _of_bound(way: Way) -> Material:
    return way.real.data if way.real.held_out is None else way.real.held_out


def _at_moment(of: Subject, way: Way, moment: Moment, meter: Meter) -> Distance | None:
    """The distance with the average that was kept then; None, with a word, if the copy is damaged."""
    from clearwater.evaluation.extractors import key_of
    from clearwater.training import load_denoiser

    tensors = of.folder.snapshots.copy(moment.step, of.length)
    if tensors is None:
        say(of.folder.snapshots.warnings[-1])
        meter.part(way.n * way.middle, of.name)
        return None

    def network() -> NetworkDenoiser:
        return load_denoiser(of.folder, way.device, tensors=tensors)

    return _distance(of, way, network, key_of("weights", tensors), moment, way.middle, meter)


def _distance(
    of: Subject,
    way: Way,
    network: Callable[[], NetworkDenoiser],
    weights: str,
    moment: Moment,
    evaluations: int,
    meter: Meter,
) -> Distance:
    from clearwater.data import ImageSet
    from clearwater.evaluation import Material, features_of, measured

    seeing = way.real.seeing
    key = {
        "figure": "frechet_distance",
        **way.key(weights, evaluations),
        "n": way.n,
        "features": seeing.key,
        **way.digests,
    }
    report = meter.part(way.n * evaluations, f"{of.name}, step {moment.step:,}, {evaluations} evaluations an image")

    def find() -> dict[str, Any]:
        samples = ImageSet(_samples(of, way, network(), evaluations, way.n, report))
        seen = features_of(samples, seeing)
        found = measured(
            Material(seen.features, seen.probabilities, samples),
            way.real.data,
            way.real.held_out,
            features=seeing.name,
            only=["frechet_distance"],
            seed=way.seed,
        )
        return found.figures[0].as_dict()

    figure = _kept_or_found(of, way, key, moment.step, find)
    return Distance(evaluations, way.steps[evaluations], moment.step, moment.seconds, figure)


def _bound(of: Subject, way: Way, meter: Meter) -> Bits | None:
    """The bound as `clearwater bound RUN DATA --variance optimal --n … --budget …` estimates it, of the same images."""
    import torch

    from clearwater.bound_estimate import estimate_bound
    from clearwater.data import ImageSet, pixel_values
    from clearwater.denoisers import Clipped
    from clearwater.evaluation.extractors import key_of
    from clearwater.evaluation.unseen import some

    others = _of_bound(way).images
    assert isinstance(others, ImageSet)
    images = some(others, bound_images(way)[1])[0]
    digest = key_of("bound", {"images": images})
    key = {"figure": "bound", "weights": of.weights, "images": digest, "made": _BOUND_MADE}
    name = f"{of.name}, bits/dim of {len(images)} images"
    fit = meter.part(_FIT_EVALUATIONS, f"{of.name}, the optimal variance")
    report = meter.part(_BOUND_EVALUATIONS * len(images), name)

    def find() -> dict[str, Any]:
        device = torch.device("cpu") if way.device.type == "mps" else way.device  # Apple's GPUs lack float64
        model = load_network(of.folder, device, variance=None, clip=True, exact=True)
        variance = optimal_variance(
            of.folder, model, clip=True, report=lambda fraction, text: fit(fraction), keeping=way.keeping
        )
        measured = Clipped(replace(model, variance=variance))
        x_0 = pixel_values(images, torch.float64).to(device)
        found = estimate_bound(measured, x_0, _BOUND_EVALUATIONS * len(x_0), progress=report)
        return asdict(Bits(found.total, found.stderr, found.stderr_of_population))

    try:
        return Bits(**_kept_or_found(of, way, key, of.place.step, find))
    except InputError as reason:
        say(f"Left out, bits/dim of {of.name}: {reason}")
        return None


def _shown(of: Subject, way: Way, network: Callable[[], NetworkDenoiser], meter: Meter) -> Tensor:
    """The images of the picture."""
    key = {name: str(value) for name, value in way.key(of.weights, way.middle).items()}
    report = meter.part(_SHOWN * way.middle, f"{of.name}, images to look at")
    kept = of.folder.kept(f"{_KIND}-images", key)
    if kept is not None:
        return kept["images"]
    images = _samples(of, way, network(), way.middle, _SHOWN, report)
    with if_it_can_be_kept(of.folder):
        of.folder.keep(f"{_KIND}-images", {"images": images}, key)
    return images


def _samples(
    of: Subject, way: Way, network: NetworkDenoiser, evaluations: int, n: int, report: Callable[[float], None]
) -> Tensor:
    """The first n images of the seed, as `clearwater sample` makes them: uint8, shape (n, C, H, W)."""
    import torch

    from clearwater.sampling import sampler

    chain = sampling_chain(of.folder, network, "trailing", way.steps[evaluations], clip=True)
    shape = image_shape(of.folder.path, of.folder.config().data)
    making = Making(network, True, chain, sampler(way.sampler), shape, way.device, way.seed)
    made = []
    for first in range(0, n, min(BATCH, n)):
        numbers = range(first, min(first + BATCH, n))

        def within(fraction: float, numbers: range = numbers) -> None:
            report((numbers.start + fraction * len(numbers)) / n)

        made.append(making.images(numbers, within))
    return torch.cat(made)


def _kept_or_found(
    of: Subject, way: Way, key: dict[str, Any], step: int, find: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What is kept under this key, or else what is found now, which is kept."""
    from clearwater.evaluation.extractors import key_of
    from clearwater.evaluation.results import Result, keep, results

    for result in results(of.folder.path, _KIND):
        if result.found.get("key") == key:
            kept: dict[str, Any] = result.found["figure"]
            return kept
    figure = find()
    with if_it_can_be_kept(of.folder):
        keep(of.folder.path, Result(_KIND, step, tuple(way.command), {"key": key, "figure": figure}), of=key_of(key))
    return figure
