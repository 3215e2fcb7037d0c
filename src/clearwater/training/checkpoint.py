"""One checkpoint on the disk: tensors as safetensors, the rest as text, each file with a checksum, never a pickle.

000001000/                            after step 1000
    config.toml  model.safetensors    the model: all that sampling needs (averaged weights)
    state.safetensors                 what resuming needs besides: weights, optimiser
    state.json                        how far it is, and the checksums of all of this
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clearwater.config import Config
from clearwater.errors import ClearwaterError
from clearwater.files import MISSING, sync, write_through

__all__ = ["Checkpoint", "Place", "TornError", "read_place", "read_state", "read_weights", "write_checkpoint"]

_FORMAT = 2
_CONFIG, _MODEL, _STATE, _PLACE = "config.toml", "model.safetensors", "state.safetensors", "state.json"

_GROUPS = ("network", "optimizer", "times", "lengths")  # of state.safetensors


class TornError(Exception):
    """A checkpoint is damaged; the message says how. One that merely cannot be read now is no such error."""


class Place(BaseModel):
    """How far a run is, and what it takes to go on besides tensors: random numbers follow from the step.

    Attributes:
        step, seconds, images: steps done, training time, images seen.
        data: digest of the images that are trained on.
        attempt: how often training has failed and went back.
        losses: the means that the guard remembers.
        window: the sum of the losses that it has not seen yet.
        windowed: of how many steps that is.
        suspect: whether the guard waits to see if a leap stays.
        measured: what these losses are of: the objective, and the batch.
        scaler: the scale of the loss in fp16, and what decides on the next one.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    step: int
    seconds: float
    images: int
    data: str
    attempt: int = 0
    losses: tuple[float, ...] = ()
    window: float = 0.0
    windowed: int = 0
    suspect: bool = False
    measured: str = ""
    scaler: dict[str, float] = {}


@dataclass(frozen=True)
class Checkpoint:
    """The state of training after a step.

    Attributes:
        place: how far it is.
        averaged: the averaged weights by parameter name.
        network: the weights in training by parameter name.
        optimizer: the optimiser's tensors, "parameter name/moment".
        times: what the sampler of levels remembers, if anything.
        lengths: the averages of fixed relative length, "length/parameter name", if they are kept.
    """

    place: Place
    averaged: dict[str, Tensor]
    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    times: dict[str, Tensor] = field(default_factory=dict)
    lengths: dict[str, Tensor] = field(default_factory=dict)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, config: Config) -> None:
    """Writes the files into a folder that is there and empty, and waits until the disk has them."""
    write_through(folder / _CONFIG, config.to_toml().encode())
    _save_tensors(folder / _MODEL, checkpoint.averaged)
    groups = {name: getattr(checkpoint, name) for name in _GROUPS}
    state = {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
    _save_tensors(folder / _STATE, state)
    place = {
        "format": _FORMAT,
        **checkpoint.place.model_dump(mode="json"),
        "checksums": {name: _checksum(folder / name) for name in (_CONFIG, _MODEL, _STATE)},
    }
    write_through(folder / _PLACE, json.dumps({**place, "checksum": _of_place(place)}, indent=1).encode())
    sync(folder)


def read_place(folder: Path) -> Place:
    """How far a checkpoint is.

    Raises:
        TornError: its state.json is damaged.
        ClearwaterError: it is whole, and of another version of clearwater; or the system cannot read it now.
    """
    return _told(folder)[0]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The averaged weights.

    Raises:
        TornError: they, or the configuration beside them, are not what was written.
        ClearwaterError: as of `read_place`.
    """
    return _weights(folder, _told(folder)[1])


def read_state(folder: Path) -> Checkpoint:
    """All of it.

    Raises:
        TornError: some file is not what was written.
        ClearwaterError: as of `read_place`.
    """
    place, checksums = _told(folder)
    averaged, state = _weights(folder, checksums), _tensors(folder, _STATE, checksums)

    def below(group: str) -> dict[str, Tensor]:
        prefix = f"{group}/"
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    return Checkpoint(place, averaged, **{name: below(name) for name in _GROUPS})


def _told(folder: Path) -> tuple[Place, dict[str, str]]:
    """What state.json says: how far the checkpoint is, and the checksums of its other files."""
    torn = TornError(f"its {_PLACE} is damaged")
    try:
        written = json.loads((folder / _PLACE).read_bytes())
    except OSError as error:
        raise _unread(folder, _PLACE, error) from None
    except (ValueError, RecursionError):
        raise torn from None
    if not isinstance(written, dict):
        raise torn
    checksum, written_in = written.pop("checksum", None), written.get("format")
    first_format = checksum is None and written_in == 1  # which had none
    if not isinstance(written_in, int) or (not first_format and checksum != _of_place(written)):
        raise torn
    if written_in != _FORMAT:
        raise ClearwaterError(
            f"The checkpoint '{folder}' was written by another version of clearwater "
            f"(format {written_in}, this one reads {_FORMAT}): use that version."
        )
    checksums = written.get("checksums")
    if not isinstance(checksums, dict) or not {_CONFIG, _MODEL, _STATE} <= checksums.keys():
        raise torn
    try:
        # What a version before this one did not write has its default.
        return Place.model_validate_json(json.dumps(written)), checksums
    except ValidationError:
        raise torn from None


def _of_place(place: dict[str, object]) -> str:
    return hashlib.blake2b(json.dumps(place, sort_keys=True).encode(), digest_size=16).hexdigest()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _verify(folder: Path, name: str, checksums: dict[str, str]) -> None:
    try:
        found = _checksum(folder / name)
    except OSError as error:
        raise _unread(folder, name, error) from None
    if found != checksums[name]:
        raise TornError(f"its {name} is not what was written")


def _weights(folder: Path, checksums: dict[str, str]) -> dict[str, Tensor]:
    _verify(folder, _CONFIG, checksums)
    return _tensors(folder, _MODEL, checksums)


def _tensors(folder: Path, name: str, checksums: dict[str, str]) -> dict[str, Tensor]:
    _verify(folder, name, checksums)
    try:
        return load_file(folder / name)
    except OSError as error:
        raise _unread(folder, name, error) from None
    except SafetensorError as error:
        raise TornError(str(error)) from None


def _unread(folder: Path, name: str, error: OSError) -> TornError | ClearwaterError:
    """What it means that the system cannot read a file."""
    why = f"{name}: {error.strerror or error}"
    if isinstance(error, MISSING):
        return TornError(why)
    # It may be whole, and the next save would remove it if an earlier one were gone on from.
    return ClearwaterError(
        f"The checkpoint '{folder}' cannot be read now ({why}): repeat the command when it can be, or remove that "
        "folder to use the checkpoint before it."
    )


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(f"'{path}' could not be written ({error})") from None
    sync(path)
