"""What a person sees of a run while it trains: the live line, the log, pictures, figures on unseen images, a page."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clearwater.cli.cost import Cost
from clearwater.cli.loading import Keeping
from clearwater.cli.looking import PREVIEWED, STEPS, Previews, drawing_seconds, forward_picture, nearest_picture
from clearwater.cli.progress import Report, duration, say, say_skipped

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from clearwater.chains import Chain
    from clearwater.data import ImageSet, StreamedImages
    from clearwater.training import Event, Progress, RunFolder, Trainer
    from clearwater.training.monitors import Monitor

__all__ = ["Looks", "Watch"]

_SHARE = 0.02  # of the time, for looking
_SOONEST = 15.0  # seconds between looks
_LAST = 0.95  # of the run
_UNSEEN = 256
_LOOK = (PREVIEWED * STEPS + _UNSEEN) / 3  # images of training that take as long: one is about three evaluations
_BOUND_BY_PICTURE = 25  # what an estimate of the bound costs in such pictures: ten times the evaluations, in float32
_ENDING = 1.5  # seconds for the last checkpoint, the loss curve and the page; the strips come on top
_SPARE = 1.25  # of the last look's cost, on a machine that has other work too
_COMPARED = 4e8  # pixel values a second, in the search for the nearest images


@dataclass(frozen=True)
class Looks:
    """What a model is looked at with while it trains.

    Attributes:
        images: those that it is trained on; None for a network that is no model of images, at which nobody looks.
        keeping: of unseen images.
    """

    images: ImageSet | StreamedImages | None = None
    keeping: Keeping = field(default_factory=Keeping)


@dataclass(frozen=True)
class _Sight:
    """What the model is looked at with.

    Attributes:
        seen: some training images, uint8.
        unseen: images to measure on, uint8.
        labels: of the unseen ones, if the model is told classes.
        held_out: whether they are really unseen.
    """

    seen: Tensor
    unseen: Tensor
    labels: Tensor | None
    held_out: bool


class Watch:
    """Takes in the events of a trainer.

    Every so often it looks at the averaged model: samples from the same noise, the loss and the bound on unseen
    images, a fresh page. A look takes what it takes, and the next one comes when that is 2% of the time since.

    Args:
        trainer: whose events they are.
        run: where everything is written.
        report: the live line.
        looks: what the model is looked at with.
        monitors: who else is told.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: RunFolder,
        report: Report,
        looks: Looks,
        monitors: Sequence[Monitor] = (),
    ) -> None:
        from clearwater.data import ImageSet

        self._trainer, self._run, self._report = trainer, run, report
        self._images, self._monitors = looks.images, monitors
        # Those that were met so far were named when the images were loaded.
        self._skipped = frozenset(() if looks.images is None else looks.images.skipped)
        self._sight = None if looks.images is None else _sight(trainer, looks.images, looks)
        self._cost, self._looked = 0.0, trainer.seconds
        self._measured = False  # until there was a look, what it costs is reckoned
        compared = len(looks.images) * math.prod(trainer.image_shape) if isinstance(looks.images, ImageSet) else 0
        drawing = 0.0 if self._sight is None else drawing_seconds(trainer.image_shape)
        self._ending = _ENDING + compared / _COMPARED + drawing
        self._spent = Cost(trainer.device, run.entries())
        trainer.reserve = self._ending
        self.finished, self._complained = False, False

    def __call__(self, event: Event) -> None:
        """Takes in an event."""
        from clearwater.training import NotSaved, Progress, Stopped, WentBack

        match event:
            case Progress():
                try:
                    self._progress(event)
                except OSError as error:  # of what only shows the run; what keeps it says so for itself
                    if not self._complained:
                        say(f"The log or the pictures could not be written ({error}); training goes on without.")
                    self._complained = True
            case NotSaved():
                why = event.error.strerror or str(event.error)
                say(f"Step {event.step} could not be saved ({why}); training goes on, and tries again later.")
            case WentBack():
                say(
                    f"After step {event.failed}, {event.reason}: training goes on from step {event.step}, with images "
                    "and noise in another order."
                )
            case Stopped():
                self.finished = event.finished

    def _progress(self, event: Progress) -> None:
        self._say_skipped()
        left = event.seconds * (1 - event.fraction) / event.fraction
        self._report(
            event.fraction,
            f"step {event.step}  loss {event.loss:.4f}  {event.images_per_second:.0f} images/s  {duration(left)} left",
        )
        entry: dict[str, Any] = {
            "step": event.step,
            "seconds": round(event.seconds, 3),
            "fraction": round(event.fraction, 6),
            "loss": event.loss,
            "learning_rate": event.learning_rate,
            "images_per_second": round(event.images_per_second, 1),
            "gradient_norm": event.gradient_norm if math.isfinite(event.gradient_norm) else None,
            "level_losses": [None if math.isnan(loss) else float(f"{loss:.4g}") for loss in event.level_losses],
            **self._spent.so_far(),
        }
        if self._sight is not None and not self._measured:
            self._cost = _LOOK / event.images_per_second
            self._trainer.reserve = _SPARE * self._cost + self._ending
        since = event.seconds - self._looked
        # Shortly before the end there is none: the last one comes anyway.
        due = event.fraction < _LAST and since >= max(_SOONEST, self._cost / _SHARE)
        if self._sight is not None and (event.fraction >= 1 or due):
            entry |= self._look(event, self._sight)
        self._run.log(entry)
        for monitor in self._monitors:
            monitor.scalars(
                event.step, {name: value for name, value in entry.items() if isinstance(value, int | float)}
            )
        if "preview" in entry:
            self._page()

    def _say_skipped(self) -> None:
        """Names broken files that were met since the last time: images that are streamed are not read before."""
        from clearwater.files import write_atomically

        met = () if self._images is None else self._images.skipped
        if len(met) > len(self._skipped):
            say_skipped([sentence for sentence in met if sentence not in self._skipped])
            self._skipped = frozenset(met)
            path = self._run.path / "skipped.txt"
            write_atomically(path, "\n".join([*met, ""]).encode(errors="surrogateescape"), durable=False)

    def _look(self, event: Progress, sight: _Sight) -> dict[str, Any]:
        """Makes a picture and measures; returns what the log is to say of it."""
        from clearwater.evaluation.unseen import cheap_bound, objective_loss
        from clearwater.pictures import enlarged, grid

        began = time.monotonic()
        trainer, model = self._trainer, self._trainer.averaged()
        last = event.fraction >= 1
        previews = Previews.of(model, trainer.config.data, trainer.image_shape, trainer.device, strip=last)
        path = self._run.path / "previews" / f"{event.step:09d}.png"
        path.parent.mkdir(exist_ok=True)
        self._write(path, enlarged(grid(previews.images)), event)
        for monitor in self._monitors:
            monitor.picture(event.step, path)
        pictured = time.monotonic() - began
        if last:
            self._last_pictures(previews, model.chain, event)
        figures: dict[str, Any] = {
            "preview": path.name,
            "unseen_images": "held_out" if sight.held_out else "train",
            "unseen_loss": objective_loss(model, self._trainer.objective, sight.unseen, labels=sight.labels),
        }
        if _BOUND_BY_PICTURE * pictured < _SHARE * event.seconds:  # in a run of a few minutes it would not pay
            bound = cheap_bound(model, sight.seen, sight.unseen[: _UNSEEN // 4])
            figures |= {"bits_per_dim": bound.bits, "bits_per_dim_error": bound.error}
        self._cost, self._looked, self._measured = time.monotonic() - began, event.seconds, True
        self._trainer.reserve = _SPARE * self._cost + self._ending
        return figures

    def _last_pictures(self, previews: Previews, chain: Chain, event: Progress) -> None:
        """The pictures that are made once, of the finished model."""
        from clearwater.data import ImageSet

        assert self._images is not None
        assert previews.strip is not None
        if isinstance(self._images, ImageSet):  # of a stream all would have to be decoded
            self._write(self._run.path / "nearest.png", nearest_picture(previews.images, self._images), event)
        self._write(self._run.path / "forward.png", forward_picture(self._images, chain), event)
        self._write(self._run.path / "reverse.png", previews.strip, event)

    def _write(self, path: Path, picture: Image.Image, event: Progress) -> None:
        from clearwater.files import write_atomically
        from clearwater.pictures import png_of

        write_atomically(path, png_of(picture, step=event.step), durable=False)

    def _page(self) -> None:
        from clearwater.evaluation.report import write_report

        write_report(self._run)

    def close(self) -> None:
        """The loss curve and the page as they are at the end."""
        from clearwater.pictures import plot_loss, write_picture

        try:
            entries = self._run.entries()
            if entries:
                write_picture(self._run.path / "loss.png", plot_loss(entries))
            if self._sight is not None:
                self._page()
        except OSError as error:
            say(f"The loss curve or the page could not be written ({error}); the run is kept.")
        for monitor in self._monitors:
            monitor.close()


def _sight(trainer: Trainer, images: ImageSet | StreamedImages, looks: Looks) -> _Sight:
    from clearwater.data import unseen_split
    from clearwater.evaluation.unseen import some

    data = trainer.config.data
    split = unseen_split(data.source, data.held_out)
    unseen = looks.keeping.open(data, split) if split == "held_out" else images
    seen, _ = some(images, _UNSEEN)
    others, labels = some(unseen, _UNSEEN)
    return _Sight(seen, others, labels if data.labels else None, split == "held_out")
