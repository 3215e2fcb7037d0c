"""Images for the commands: from the cache, with a word on what is being done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearwater.cli.progress import Report, live_line, say
from clearwater.errors import InputError

if TYPE_CHECKING:
    from clearwater.config import DataConfig
    from clearwater.data import ImageSet, LoadReport, StreamedImages
    from clearwater.data.images import Split
    from clearwater.training import RunFolder

__all__ = ["Keeping", "data_to_measure", "load"]


def load(
    source: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Split = "train",
    held_out: int | None = 0,
    labels: bool = False,
    cache: Path | None = None,
    kept: bool = True,
    quiet: bool = False,
) -> ImageSet:
    """`load_images`, with a cache in the given folder or the usual one if it is `kept`, and a live line meanwhile."""
    from clearwater.data import default_cache, load_images

    with _told(quiet=quiet) as report:
        return load_images(
            source,
            size=size,
            channels=channels,
            split=split,
            held_out=held_out,
            labels=labels,
            cache=(cache or default_cache()) if kept else None,
            report=report,
        )


def data_to_measure(run: RunFolder, given: str | None, keeping: Keeping, *, unseen: str | None = None) -> DataConfig:
    """The images that a run is measured with: its own, of which some may be held out, or others, at its size.

    Args:
        run: the run.
        given: what the person named as its data; None for its own.
        keeping: of decoded images.
        unseen: images that the person named as those that it has not seen, if any.

    Raises:
        InputError: the run's own images have changed, and it is not known which of them the model has not seen.
    """
    from clearwater.data import lasting_name

    own = run.config().data.model_copy(update={"labels": False})
    if given is not None and lasting_name(given) != own.source:
        return own.model_copy(update={"source": given, "held_out": 0})
    if unseen is None:
        _refuse_changed(run, keeping)
    return own


@dataclass(frozen=True)
class Keeping:
    """Whether decoded images are kept, and where.

    Attributes:
        folder: None for the usual place.
        streams: whether none are.
    """

    folder: Path | None = None
    streams: bool = False

    def load(self, data: DataConfig, split: Split = "train", *, chooses: bool = False, quiet: bool = False) -> ImageSet:
        """All images of a part of a run's data.

        Args:
            data: of the run.
            split: the part.
            chooses: whether as many are held out as usual where the run does not say it; else none are.
            quiet: whether nothing is told.
        """
        asked = _asked(data, split, chooses=chooses)
        images = load(data.source, **asked, cache=self.folder, kept=not self.streams, quiet=quiet)
        return images.with_classes(data.classes or ())

    def open(
        self, data: DataConfig, split: Split = "train", *, chooses: bool = False, quiet: bool = False
    ) -> ImageSet | StreamedImages:
        """As `load`, but decoded when they are needed if none are to be kept."""
        from clearwater.data import stream_images

        if not self.streams:
            return self.load(data, split, chooses=chooses, quiet=quiet)
        return stream_images(data.source, **_asked(data, split, chooses=chooses)).with_classes(data.classes or ())


def _asked(data: DataConfig, split: Split, *, chooses: bool) -> dict[str, Any]:
    """What a run asks of its images, as `load_images` and `stream_images` take it."""
    held_out = None if chooses and data.held_out is None else data.held_out or 0
    sizes = {"size": data.size, "channels": data.channels}
    return {**sizes, "split": split, "held_out": held_out, "labels": data.labels}


def _refuse_changed(folder: RunFolder, keeping: Keeping) -> None:
    """Refuses a run's own images if they have changed: it is then not known which of them the model has not seen.

    Raises:
        InputError: files were added, removed or changed since the run was trained, and some are held out.
    """
    data = folder.config().data
    if not data.held_out:
        return
    trained_on = folder.model()[1].data
    if keeping.load(data, quiet=True).digest(labels=data.labels) == trained_on:
        return
    try:  # of a run that kept none it is another hash
        streamed = replace(keeping, streams=True).open(data, quiet=True).digest(labels=data.labels)
    except InputError:
        streamed = None
    if streamed != trained_on:
        raise InputError(
            f"The images of '{data.source}' are not those that the run was trained on, so it is not known which of "
            "them it has not seen: put them back, or name other images."
        )


@contextmanager
def _told(*, quiet: bool) -> Iterator[LoadReport]:
    from clearwater.data import LoadReport

    if quiet:
        yield LoadReport()
        return
    with live_line("decoding") as line:
        yield _report(LoadReport, line)


def _report(base: type[LoadReport], line: Report) -> LoadReport:
    class Told(base):  # type: ignore[valid-type, misc]  # its module loads torch, which `--help` does not need
        def building(self, folder: Path, size: int) -> None:
            say(f"Decoding once into '{folder}', {_megabytes(size)}; `train --no-cache` decodes as it trains instead.")

        def waiting(self, folder: Path) -> None:
            say(f"Another process decodes into '{folder}': waiting for it.")

        def progress(self, fraction: float) -> None:
            line(fraction, "images")

        def warn(self, sentence: str) -> None:
            say(sentence)

    told: LoadReport = Told()
    return told


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.1f} MB"
