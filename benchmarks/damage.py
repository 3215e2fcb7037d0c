"""Disks that run full, and files that are not as they were written: two modes of interruptions.py."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from small_run import Ended, SmallRun, differences, newest, strays, wait_for, write_images

from clearwater.training import RunFolder

__all__ = ["disk", "flips"]

_STEPS = 200
_DISK = 24 * 2**20  # bytes
_PAGE = 4096
_FILES = ("config.toml", "model.safetensors", "state.safetensors", "state.json")
_BY_COMMAND = 30


# --- a full disk


def disk(folder: Path, wanted: int, drawn: random.Random) -> tuple[Counter[str], list[str]]:
    """A disk that runs full, in turn during checkpoints, the log, the previews, the cache; then has room again."""
    seen, faults = Counter[str](), []
    data = write_images(folder / "data")
    unbroken = SmallRun(data, folder / "unbroken", folder / "unbroken-cache", _STEPS)
    unbroken.train()
    many = SmallRun(write_images(folder / "many", 6000), folder / "many-unbroken", folder / "many-cache", 3)
    many.train()
    places = (_checkpoints, _log, _previews, _cache)
    for trial in range(wanted):
        place, name = places[trial % len(places)], f"disk-{trial}"
        sound = many if place is _cache else unbroken
        try:
            with _small_disk(folder / name) as mounted:
                ended, run = place(sound, folder / f"run-{trial}", mounted, drawn)
                faults += [f"{name}, {place.__name__[1:]}: {fault}" for fault in _told(ended)]
                seen[f"{place.__name__[1:]}: trials"] += 1
                noticed = "could not be" in ended.said
                seen[f"{place.__name__[1:]}: told, and ended"] += ended.code != 0
                seen[f"{place.__name__[1:]}: told, and went on"] += ended.code == 0 and noticed
                seen[f"{place.__name__[1:]}: nothing was noticed"] += ended.code == 0 and not noticed
                before = newest(run.checkpoints)
                kept = RunFolder.open(run.out).latest() if before else None
                if before and (kept is None or kept.place.step != before):
                    faults.append(f"{name}: the checkpoint of step {before} cannot be read")
                (mounted / "ballast").unlink()
                again = run.train()
                faults += [f"{name}, again: {fault}" for fault in _told(again)]
                if again.code != 0:
                    faults.append(f"{name}: with room again it ended with {again.code}: {again.said}")
                    continue
                if ended.code != 0 and again.from_step != before:
                    faults.append(f"{name}: step {before} was saved, and it went on from {again.from_step}")
                wrong = differences(run.out, sound.out) + strays(run)
                faults += [f"{name}, {place.__name__[1:]}: {each} differs" for each in wrong]
                seen["went on to the same bits"] += not wrong
        except PermissionError as error:
            print(f"disk: skipped, since {error}.", flush=True)
            return seen, faults
    return seen, faults


@contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    """A disk in memory."""
    path.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(path)]
    try:
        made = subprocess.run(line, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PermissionError("there is no `mount` here") from None
    if made.returncode:
        raise PermissionError(f"a tmpfs cannot be mounted here ({made.stderr.strip()})")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def _fill(mounted: Path, left: int) -> None:
    """Fills the disk up to so many bytes."""
    with (mounted / "ballast").open("ab", buffering=0) as file:
        while (free := shutil.disk_usage(mounted).free - left) > 0:
            try:
                file.write(bytes(min(free, 2**16)))
            except OSError:
                return


def _told(ended: Ended) -> list[str]:
    """What is wrong with how the end was told."""
    found = ["a traceback:\n" + ended.said] if ended.traceback else []
    if ended.code not in (0, 1, 2) or (ended.code and "Error: " not in ended.said):
        found.append(f"it ended with {ended.code}: {ended.said.splitlines()[-1:]}")
    return found


def _checkpoints(sound: SmallRun, out: Path, mounted: Path, drawn: random.Random) -> tuple[Ended, SmallRun]:
    """The whole run is on it, and it runs full after some checkpoints."""
    run = SmallRun(sound.data, mounted / "run", sound.cache, sound.steps)
    step, left = drawn.randrange(1, sound.steps), drawn.randrange(2**20)

    def fill(process: subprocess.Popen[str]) -> None:
        wait_for(lambda: newest(run.checkpoints) >= step, process)
        _fill(mounted, left)

    return run.train(fill), run


def _log(sound: SmallRun, out: Path, mounted: Path, drawn: random.Random) -> tuple[Ended, SmallRun]:
    """The log alone is on it, and it is full."""
    run = _begun(sound, out, drawn)
    log = mounted / "log.jsonl"
    shutil.move(run.out / "log.jsonl", log) if (run.out / "log.jsonl").exists() else log.touch()
    (run.out / "log.jsonl").symlink_to(log)
    with log.open("ab") as file:  # up to the end of its last page, into which the next lines would fit
        file.write(b" " * (-(file.tell() + 1) % _PAGE) + b"\n")
    _fill(mounted, 0)
    return run.train(), run


def _previews(sound: SmallRun, out: Path, mounted: Path, drawn: random.Random) -> tuple[Ended, SmallRun]:
    """The previews alone are on it, and it is full."""
    run = _begun(sound, out, drawn)
    shutil.rmtree(run.out / "previews", ignore_errors=True)
    (run.out / "previews").symlink_to(mounted, target_is_directory=True)
    _fill(mounted, drawn.choice([0, 4096]))
    return run.train(), run


def _cache(sound: SmallRun, out: Path, mounted: Path, drawn: random.Random) -> tuple[Ended, SmallRun]:
    """The cache is on it; every other time it is full from the first, else while images are decoded."""
    run = SmallRun(sound.data, out, mounted / "cache", sound.steps)
    if drawn.random() < 0.5:
        _fill(mounted, drawn.randrange(2**20))
        return run.train(), run

    def fill(process: subprocess.Popen[str]) -> None:
        wait_for(lambda: any(run.cache.glob("*/*/images.npy")), process)
        _fill(mounted, drawn.randrange(2**21))

    return run.train(fill), run


def _begun(sound: SmallRun, out: Path, drawn: random.Random) -> SmallRun:
    """A run that was interrupted with Ctrl-C after a checkpoint."""
    run = SmallRun(sound.data, out, sound.cache, sound.steps)
    run.until_checkpoint(drawn.randrange(1, sound.steps // 2))
    return run


# --- damaged files


def flips(folder: Path, wanted: int, drawn: random.Random) -> tuple[Counter[str], list[str]]:
    """A checkpoint with a bit that is another, or with a file that is cut short, removed, or empty."""
    seen, faults = Counter[str](), []
    data = write_images(folder / "data")
    unbroken = SmallRun(data, folder / "unbroken", folder / "cache", _STEPS)
    unbroken.train()
    run = SmallRun(data, folder / "run", folder / "cache", _STEPS)
    run.until_checkpoint(_STEPS // 2)
    checkpoints = sorted(run.checkpoints.iterdir())
    if [len(checkpoints), *strays(run)] != [2]:
        return seen, [f"after Ctrl-C there are {[path.name for path in checkpoints]}, not two checkpoints"]
    for trial in range(wanted):
        hit, name = drawn.choice(checkpoints), drawn.choice(_FILES)
        how, whole = _damaged(hit / name, drawn)
        what = f"trial {trial}, {name} of step {int(hit.name)}, {how}"
        try:
            by_command = trial >= wanted - _BY_COMMAND
            check = _by_command if by_command else _by_library
            found = check(run, unbroken, hit, name, checkpoints, trial)
        finally:
            (hit / name).write_bytes(whole)
        faults += [f"{what}: {fault}" for fault in found]
        seen[f"trials: {how.partition(' ')[0]}"] += 1
        seen[f"trials by {'the commands' if by_command else 'the library'}"] += 1
        seen["newest damaged"] += hit == checkpoints[-1]
        seen["as they have to be"] += not found
    return seen, faults


def _damaged(path: Path, drawn: random.Random) -> tuple[str, bytes]:
    """Damages a file. Returns how, and what it was."""
    whole = path.read_bytes()
    place = drawn.randrange(len(whole))
    if drawn.random() < 0.7:
        bit = 1 << drawn.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        return f"flipped in byte {place}", whole
    path.write_bytes(whole[:place])
    return f"cut at byte {place}", whole


def _by_library(
    run: SmallRun, unbroken: SmallRun, hit: Path, name: str, checkpoints: list[Path], trial: int
) -> list[str]:
    """What is not as it has to be when the library reads the run."""
    opened = RunFolder.open(run.out)
    latest = opened.latest()
    resumes = checkpoints[0] if hit == checkpoints[-1] else checkpoints[-1]
    found = _told_of(hit, checkpoints, opened.warnings)
    if latest is None or latest.place.step != int(resumes.name):
        found.append(f"training would go on from {latest and latest.place.step}, not {int(resumes.name)}")
    model = RunFolder.open(run.out).model()[1]
    samples = checkpoints[-1] if name == "state.safetensors" else resumes  # which sampling does not read
    if model.step != int(samples.name):
        found.append(f"samples would be of step {model.step}, not {int(samples.name)}")
    return found


def _by_command(
    run: SmallRun, unbroken: SmallRun, hit: Path, name: str, checkpoints: list[Path], trial: int
) -> list[str]:
    """What is not as it has to be when the commands do: by turns `train` to the end, and `sample`."""
    copy = SmallRun(run.data, run.out.with_name(f"copy-{trial}"), run.cache, run.steps)
    shutil.copytree(run.out, copy.out)
    damaged = copy.checkpoints / hit.name
    others = {path: path.read_bytes() for path in copy.out.rglob("*") if path.is_file() and path.parent != damaged}
    newest_hit = hit == checkpoints[-1]
    if trial % 3:
        ended = copy.train()
        found = [f"{each} differs at the end" for each in differences(copy.out, unbroken.out) + strays(copy)]
        right = checkpoints[0] if newest_hit else checkpoints[-1]
        if ended.from_step != int(right.name):
            found.append(f"training went on from step {ended.from_step}, not {int(right.name)}")
        lines = ended.said.splitlines()
        found += _told_of(hit, checkpoints, [line for line in lines if "passed over" in line])
    else:
        ended = copy.command(
            "sample", copy.out, "--out", copy.out.with_name(f"samples-{trial}"), "--n", 2, "--steps", 2
        )
        found = ["another file was changed" for path, content in others.items() if path.read_bytes() != content]
        reads = name != "state.safetensors"
        lines = [line for line in ended.said.splitlines() if "passed over" in line]
        found += _told_of(hit if reads else checkpoints[0], checkpoints, list(dict.fromkeys(lines)))
    shutil.rmtree(copy.out)
    return found + _told(ended) + ([f"it ended with {ended.code}: {ended.said}"] if ended.code else [])


def _told_of(hit: Path, checkpoints: list[Path], said: list[str]) -> list[str]:
    """What is wrong with the warnings: the newest checkpoint is named if it is damaged, and no other."""
    wanted = [hit.name] if hit == checkpoints[-1] else []
    named = [path.name for line in said for path in checkpoints if path.name in line]
    return [] if named == wanted else [f"the warnings were {said}"]
