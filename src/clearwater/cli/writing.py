"""A sample on disk: one PNG an image, streamed as they are made; an interrupted sample is gone on with."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clearwater.cli.progress import Report, live_line, say
from clearwater.errors import InputError
from clearwater.files import alone_in, sync, write_atomically

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from clearwater.chains import Chain
    from clearwater.cli.making import Making
    from clearwater.denoisers import NetworkDenoiser
    from clearwater.training import RunFolder
    from clearwater.world import World

__all__ = ["fingerprint", "made_with", "refuse_other", "write_samples"]

_MANIFEST = "samples.json"
_GRID, _LEFT, _NPZ, _LABELS = "grid.png", "left.png", "samples.npz", "labels.json"
_PART, _DONE = ".part", ".done"  # while images are made; while they are moved up
_IN_GRID = 100


def write_samples(
    out: Path,
    making: Making,
    made: dict[str, Any],
    n: int,
    batch: int,
    world: World,
    *,
    npz: bool = False,
    at_least: bool = False,
    left: Image.Image | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Makes the images in a folder within `out`, which is on the same disk, then moves them up.

    An earlier sample stays until this one is complete. What is in the folder of an interrupted one is gone on with
    if it was made in the same way. A batch is always the same images, whoever makes it and whenever: so the files have
    the same bits, however often the command was interrupted and whatever the number of processes.

    Args:
        out: the folder.
        making: how images are made.
        made: what the sample is made with, for samples.json.
        n: how many images.
        batch: how many at a time.
        world: the processes that share the work.
        npz: whether to write them as samples.npz too.
        at_least: whether a complete sample of more, made in the same way, may stay: its first are these.
        left: what is left of an image that is restored, written as left.png.
        classes: names of classes, of which image i is the one of number i % len; written as labels.json, with which
            the sample can be trained on.

    Raises:
        InputError: another command writes into the folder.
    """
    if world.first:
        out.mkdir(parents=True, exist_ok=True)
    busy = f"Another command writes into '{out}': wait until it has ended, or give another folder."
    with alone_in(out, busy) if world.first else nullcontext():
        part = out / _PART
        extra = {_LEFT: left is not None, _NPZ: npz, _LABELS: bool(classes)}
        files = [_GRID, *(name for name, wanted in extra.items() if wanted)]
        manifest = {**made, "n": n, "batch": batch, "files": files}
        batches = [range(first, min(first + batch, n)) for first in range(0, n, batch)]
        missing: list[range] | None = None
        try:
            if world.first and not _is_complete(out, manifest, at_least=at_least):
                _prepare(part, manifest)
                missing = [numbers for numbers in batches if not all(_is_there(part / _name(i)) for i in numbers)]
                there = n - sum(map(len, missing))
                if there:
                    say(f"Going on: {there} of {n} images are there.")
            missing = world.told(missing)
            if missing is None:
                return
            _make(part, making, missing[world.rank :: world.size], world)
            world.wait()
            if not world.first:
                return
            _overview([part / _name(i) for i in range(min(n, _IN_GRID))]).save(part / _GRID)
            if left is not None:
                left.save(part / _LEFT)
            if npz:
                _write_npz(part / _NPZ, [part / _name(i) for i in range(n)])
            if classes:
                of_images = {_name(i): classes[i % len(classes)] for i in range(n)}
                (part / _LABELS).write_text(json.dumps(of_images, indent=0, ensure_ascii=False), encoding="utf-8")
            if (out / _MANIFEST).is_file():
                say(f"The earlier sample in '{out}' is replaced.")
            _settle(part, n)
            part.rename(out / _DONE)
            _move_up(out)
        except KeyboardInterrupt:
            if world.first:
                say(f"Interrupted: what is finished is kept in '{part}'; repeat the command to go on.")
            raise typer.Exit(130) from None
        say(f"{n} image(s) in '{out}'; look at {out / _GRID}")


def _is_complete(out: Path, manifest: dict[str, Any], *, at_least: bool) -> bool:
    """Whether this very sample, or one that will do, is there, at most to be moved up, which is done then."""
    if (out / _DONE).is_dir():
        _move_up(out)
    there = _read(out / _MANIFEST)
    if there is None or (out / _PART).is_dir() or not _same(there, manifest):
        return False
    enough = there["n"] >= manifest["n"] if at_least else there["n"] == manifest["n"]
    if not enough or there["files"] != manifest["files"]:
        return False
    if not all((out / name).is_file() for name in [*there["files"], *map(_name, range(there["n"]))]):
        return False
    say(f"The sample in '{out}' is complete; look at {out / _GRID}")
    return True


def _settle(part: Path, n: int) -> None:
    """What only a longer sample had is removed, and the disk has the rest."""
    for path in part.iterdir():
        if path.stem.isdecimal() and int(path.stem) >= n:
            path.unlink()
        else:
            sync(path)
    sync(part)


def _move_up(out: Path) -> None:
    """Puts a complete sample in the place of an earlier one; can be interrupted at any moment and done again."""
    done = out / _DONE
    made = _read(done / _MANIFEST)
    if made is not None:
        # The rest of an earlier sample; the files that this one has as well are written over.
        stale = [path for path in out.glob("*.png") if path.stem.isdecimal() and int(path.stem) >= made["n"]]
        for path in [*stale, *(out / name for name in (_LEFT, _NPZ, _LABELS) if name not in made["files"])]:
            path.unlink(missing_ok=True)
        for path in done.iterdir():
            if path.name != _MANIFEST:
                path.rename(out / path.name)
        (done / _MANIFEST).rename(out / _MANIFEST)
    done.rmdir()


def fingerprint(of: NetworkDenoiser | Chain | Path) -> str:
    """A hash of a model's weights, of levels, or of a file: by which an interrupted sample knows how it was made."""
    from clearwater.chains import Chain

    content = hashlib.blake2b(digest_size=16)
    if isinstance(of, Path):
        content.update(of.read_bytes())
    elif isinstance(of, Chain):
        for values in (of.levels.alpha, of.levels.sigma, of.levels.time):
            content.update(values.numpy().tobytes())
    else:
        for tensor in of.network.state_dict().values():
            content.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return content.hexdigest()


def made_with(
    run: Path, folder: RunFolder, network: NetworkDenoiser, chain: Chain, device: torch.device
) -> dict[str, Any]:
    """What every sample says of its model and its levels."""
    from clearwater import __version__

    return {
        "run": str(run),
        "step": folder.model()[1].step,
        "weights": fingerprint(network),
        "steps": chain.T,
        "levels": fingerprint(chain),
        "device": device.type,
        "version": __version__,
    }


def _prepare(part: Path, manifest: dict[str, Any]) -> None:
    there = _read(part / _MANIFEST)
    if part.is_dir() and (there is None or not _same(there, manifest)):
        say("What an interrupted sample left there was made in another way: it is begun anew.")
        shutil.rmtree(part)
    part.mkdir(parents=True, exist_ok=True)
    write_atomically(part / _MANIFEST, json.dumps(manifest, indent=1).encode())


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether both make the same images: whatever the files that they came from are called, and however many."""

    def of_images(manifest: dict[str, Any]) -> dict[str, Any]:
        free = ("run", "n", "files")
        return {name: value for name, value in manifest.items() if name not in free and not name.endswith("_path")}

    return of_images(json.loads(json.dumps(a))) == of_images(json.loads(json.dumps(b)))


def _is_there(path: Path) -> bool:
    """Whether an image is there and whole: after a power cut, a file may be there and empty."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):  # Pillow's word for a broken PNG
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _make(part: Path, making: Making, batches: Sequence[range], world: World) -> None:
    from clearwater.pictures.images import to_image

    total, done = sum(map(len, batches)), 0
    text = f"{total} images" + (f" in this process of {world.size}" if world.size > 1 else "")
    with live_line("sampling", shown=world.first) as report:
        for numbers in batches:
            images = making.images(numbers, _within(report, text, done / total, len(numbers) / total))
            for i, image in zip(numbers, images, strict=True):
                buffer = io.BytesIO()
                to_image(image).save(buffer, "PNG")
                write_atomically(part / _name(i), buffer.getvalue(), durable=False)
            done += len(numbers)


def _within(report: Report, text: str, before: float, share: float) -> Callable[[float], None]:
    return lambda fraction: report(before + fraction * share, text)


def _name(i: int) -> str:
    return f"{i:06d}.png"


def _overview(paths: Sequence[Path]) -> Image.Image:
    import torch

    from clearwater.pictures import enlarged, grid

    return enlarged(grid(torch.stack([_pixels(path) for path in paths])))


def _pixels(path: Path) -> torch.Tensor:
    """uint8, shape (C, H, W)."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as image:
        array = np.asarray(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1)


def _write_npz(path: Path, images: Sequence[Path]) -> None:
    """The images as numpy.load reads them, one at a time, so that memory does not grow with their number."""
    import numpy as np

    first = _pixels(images[0]).permute(1, 2, 0).numpy()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *first.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for image in images:
            file.write(_pixels(image).permute(1, 2, 0).contiguous().numpy().tobytes())


def refuse_other(out: Path) -> None:
    """Refuses a folder that holds anything but samples, whether complete or interrupted."""
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file: give --out a folder that does not exist, is empty or holds samples.")
    if not out.is_dir() or (out / _MANIFEST).is_file() or (out / _DONE).is_dir():
        return
    if any(path.name != _PART for path in out.iterdir()):
        raise InputError(f"'{out}' holds something that is not a sample: give --out an empty or a new folder.")
