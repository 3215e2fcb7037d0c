"""What the page of a run lacks is made: pictures of its newest model, figures of its samples, the bound."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clearwater.cli.loading import Keeping
from clearwater.cli.looking import STEPS, Previews, forward_picture, nearest_picture
from clearwater.cli.models import has_optimal_variance, image_shape, load_network
from clearwater.cli.options import BATCH
from clearwater.cli.progress import duration, live_line, say
from clearwater.errors import ClearwaterError, InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from clearwater.data import ImageSet
    from clearwater.data.images import Split
    from clearwater.denoisers import NetworkDenoiser
    from clearwater.training import RunFolder

__all__ = ["complete"]

_SAMPLES = 2000  # of the figures
_IMAGES, _FEWER = 1000, 256  # of the bound: as many as are usually held out, or, where that takes too long, some
_FEWEST, _EACH, _EACH_AT_MOST = 5, 20, 100  # evaluations of the bound, an image
_FITTED, _DECODED = 128 * 250, 64 * 64 * 37  # evaluations that the optimal variance takes: of the network, the decoder
_AT_ONCE = 16  # images, to see how long they take
_BOUND_SECONDS = 60.0
_PATIENCE = 600.0  # seconds that nobody asked for


@dataclass(frozen=True)
class _Newest:
    """The newest model of a run.

    Attributes:
        folder: the run.
        network: with the averaged weights.
        shape: (C, H, W) of an image.
        step: of training.
        device: where it is, and how the person calls it.
        keeping: of decoded images.
    """

    folder: RunFolder
    network: NetworkDenoiser
    shape: tuple[int, int, int]
    step: int
    device: tuple[torch.device, str]
    keeping: Keeping

    @property
    def on(self) -> list[str]:
        """The device and the cache as options of a command."""
        cache = [] if self.keeping.folder is None else ["--cache", str(self.keeping.folder)]
        return [*([] if self.device[1] == "auto" else ["--device", self.device[1]]), *cache]

    def images(self, split: Split = "train") -> ImageSet:
        """The run's images."""
        return self.keeping.load(self.folder.config().data.model_copy(update={"labels": False}), split)

    def found(self, kind: str) -> list[dict[str, Any]]:
        """What is kept of this model and its own images."""
        from clearwater.evaluation.results import results

        kept, source = results(self.folder.path, kind), self.folder.config().data.source
        return [each.found for each in kept if each.step == self.step and each.found.get("data") == source]

    def sampled(self) -> float:
        """Seconds that an evaluation of the network takes in sampling, for one image among many."""
        x = self._blank(BATCH)
        return _seconds(lambda: self.network(x, self.network.chain.levels[-1]).x_0.sum()) / BATCH

    def seen(self) -> float:
        """Seconds that it takes to see an image, among many."""
        from clearwater.evaluation import extractor

        see = extractor(None, self.shape, self.device[0])
        blank = self._blank(BATCH).byte()
        return _seconds(lambda: see(blank).features.sum()) / BATCH

    def term(self) -> float:
        """Seconds that a term of the bound takes, for one image among some."""
        import torch

        from clearwater.decoders import DiscretizedDecoder
        from clearwater.likelihood import evaluated_term

        x, exactly = self._blank(_AT_ONCE).double(), replace(self.network, autocast=None)
        pair = exactly.chain.pair(exactly.chain.T)
        made = _seconds(lambda: evaluated_term(exactly, x, torch.zeros_like(x), pair, DiscretizedDecoder()).sum())
        return made / _AT_ONCE

    def fit(self) -> float:
        """Seconds that the optimal variance takes, unless it is kept with the run."""
        import torch

        from clearwater.decoders import DiscretizedDecoder
        from clearwater.gaussians import Gaussian

        if has_optimal_variance(self.folder, clip=True):
            return 0.0
        x = self._blank(_AT_ONCE)
        of_decoder = _seconds(lambda: DiscretizedDecoder()(x, Gaussian(x, torch.ones_like(x[:1]))).sum()) / _AT_ONCE
        return _FITTED * self.term() + _DECODED * of_decoder

    def _blank(self, n: int) -> torch.Tensor:
        import torch

        return torch.ones(n, *self.shape, device=self.device[0])


def _seconds(make: Callable[[], torch.Tensor]) -> float:
    """How long something takes that was done before, until its figure is there."""
    import torch

    with torch.inference_mode():
        float(make())
        began = time.monotonic()
        for _ in range(2):
            float(make())
    return (time.monotonic() - began) / 2


def complete(folder: RunFolder, device: str, cache: Path | None) -> bool:
    """Makes what the page lacks, as far as it can be made. Returns whether nobody interrupted.

    Args:
        folder: the run.
        device: where to compute, as on the command line.
        cache: where decoded images and features are kept; None for the usual place.
    """
    try:
        _complete(folder, device, Keeping(cache))
    except (KeyboardInterrupt, typer.Abort):
        say("Interrupted: the page is of what is there; the same command goes on.")
        return False
    return True


def _complete(folder: RunFolder, device: str, keeping: Keeping) -> None:
    from clearwater.assembly import pick_device

    chosen = pick_device(device)
    try:
        with folder.held():  # a training would be slowed down, and has other weights in a minute
            pass
        network = load_network(folder, chosen, variance=None, clip=True)
        shape = image_shape(folder.path, folder.config().data)
        newest = _Newest(folder, network, shape, folder.model()[1].step, (chosen, device), keeping)
    except ClearwaterError as error:
        say(f"The page is of what is in the folder: {error}")
        return
    for warning in dict.fromkeys(folder.warnings):
        say(warning)
    parts: tuple[tuple[str, Callable[[_Newest], None]], ...] = (
        ("The pictures", _pictures),
        ("The figures of its samples", _fidelity),
        ("The bound", _bound),
    )
    for name, make in parts:
        try:
            make(newest)
        except (ClearwaterError, OSError) as error:
            say(f"{name} could not be made, and the page goes without: {error}")


def _pictures(newest: _Newest) -> None:
    """The strips of both processes and the nearest training images, those that are not of this model."""
    from clearwater.files import write_atomically
    from clearwater.pictures import png_of, step_of

    def lacks(name: str) -> bool:
        return step_of(newest.folder.path / name) != newest.step

    def write(name: str, picture: Image.Image) -> None:
        if lacks(name):
            write_atomically(newest.folder.path / name, png_of(picture, step=newest.step), durable=False)

    if not any(map(lacks, ("forward.png", "reverse.png", "nearest.png"))):
        return
    data = newest.folder.config().data
    with live_line("drawing") as report:
        report(0.0, "samples coming out of noise")
        previews = Previews.of(newest.network, data, newest.shape, newest.device[0], strip=True)
        report(1.0, "samples coming out of noise")
    assert previews.strip is not None
    write("reverse.png", previews.strip)
    if lacks("forward.png") or lacks("nearest.png"):
        images = newest.images()
        write("forward.png", forward_picture(images, newest.network.chain))
        write("nearest.png", nearest_picture(previews.images, images))


def _fidelity(newest: _Newest) -> None:
    """The figures of some samples, as `clearwater measure` makes them."""
    for found in newest.found("fidelity"):
        if "frechet_distance" in found.get("figures", {}) and found.get("images", {}).get("samples", 0) >= _SAMPLES:
            return
    images = len(newest.images())  # without them samples would be made for nothing
    words = ["measure", str(newest.folder.path), "--n", str(_SAMPLES)]
    data = newest.folder.config().data
    if data.labels and data.classes:  # samples of none are not what it is for
        words += ["--classes", "all"]
    seconds = _SAMPLES * min(STEPS, newest.network.chain.T) * newest.sampled() + (images + _SAMPLES) * newest.seen()
    if not _takes_too_long("The figures of its samples", seconds, words):
        _run([*words, *newest.on])


def _bound(newest: _Newest) -> None:
    """The bound of images that were held out, as `clearwater bound` estimates it."""
    import torch

    from clearwater.data import unseen_split

    if newest.device[0].type == "mps":  # which has no float64
        cpu = torch.device("cpu")
        newest = replace(
            newest, network=load_network(newest.folder, cpu, variance=None, clip=True), device=(cpu, "cpu")
        )
    data = newest.folder.config().data
    images = len(newest.images(unseen_split(data.source, data.held_out)))
    term, fit = newest.term(), newest.fit()
    budget = int(_BOUND_SECONDS / term)
    n = min(images, _IMAGES if budget >= _EACH * min(images, _IMAGES) else _FEWER)
    for found in newest.found("bound"):
        if "kl" in found and found.get("weights") == "ema" and found.get("images", 0) >= n:
            return
    budget = max(_rounded(min(budget, _EACH_AT_MOST * n)), _FEWEST * n)
    words = ["bound", str(newest.folder.path), data.source]
    if fit <= _PATIENCE / 2:
        words += ["--variance", "optimal"]
    if n < images:
        words += ["--n", str(n)]
    words += ["--budget", str(budget)]
    if not _takes_too_long("The bound", budget * term + (fit if "optimal" in words else 0.0), words):
        _run([*words, *newest.on])


def _takes_too_long(what: str, seconds: float, words: Sequence[str]) -> bool:
    """Whether it does; says so, or how long it takes if that is long enough to wonder."""
    if seconds > _PATIENCE:
        say(f"{what} would take about {duration(seconds)} here: `{_command(words)}` does it if you have the time.")
        return True
    if seconds > 60:
        say(f"{what}: about {duration(seconds)}; Ctrl-C goes on to the page.")
    return False


def _command(words: Sequence[str]) -> str:
    return shlex.join(["clearwater", *words])


def _rounded(number: int) -> int:
    """Down to two digits: it becomes part of a command that a person reads."""
    unit: int = 10 ** max(len(str(number)) - 2, 0)
    return number // unit * unit


def _run(words: Sequence[str]) -> None:
    """Runs a command of this program, the very one that the page names, without what it prints.

    Raises:
        typer.Abort: it was interrupted.
        ClearwaterError: what the command says.
    """
    from clearwater.cli import app

    say(f"Running {_command(words)}")
    with redirect_stdout(io.StringIO()):
        code: object = app(args=list(words), prog_name="clearwater", standalone_mode=False)
    if code == 130:
        raise typer.Abort
    if code:
        raise InputError(f"`{_command(words)}` has ended with {code}.")
