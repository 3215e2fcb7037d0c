"""What was measured of a run, kept in its folder: RUN/measured/KIND-….json, a file a command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clearwater.data.records import seal, unseal
from clearwater.data.sources import hash_of
from clearwater.files import write_atomically

__all__ = ["Result", "keep", "results"]

_FOLDER = "measured"


@dataclass(frozen=True)
class Result:
    """What a command has found of a run.

    Attributes:
        kind: what it is, such as "fidelity" or "bound".
        step: of the checkpoint that was measured.
        command: what finds it again: the words after `clearwater`.
        found: the figures, as the command's --json has them.
    """

    kind: str
    step: int
    command: tuple[str, ...]
    found: dict[str, Any]


def keep(run: Path, result: Result, *, of: str = "") -> Path:
    """Keeps a result in the folder of a run, in place of what the same command found before. Returns the file.

    Args:
        run: the folder.
        result: what was found.
        of: what tells this one from others of the same kind that the same command finds.
    """
    folder = run / _FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{result.kind}-{hash_of([*result.command, *([of] if of else [])])[:12]}.json"
    write_atomically(path, seal(asdict(result)))
    return path


def results(run: Path, kind: str) -> Sequence[Result]:
    """The results of a kind that are kept in the folder of a run, the newest first; damaged ones are left out."""
    found = []
    paths = [path for path in (run / _FOLDER).glob(f"{kind}-*.json") if path.is_file()]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        content = unseal(path.read_bytes())
        try:
            if content is not None:
                found.append(Result(**{**content, "command": tuple(content["command"])}))
        except (TypeError, KeyError):  # of another version
            continue
    return found
