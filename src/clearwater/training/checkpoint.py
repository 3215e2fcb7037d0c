"""Run folders and the checkpoints in them: written whole or not at all, and never a pickle.

RUN/config.toml                          the configuration of the run
RUN/log.jsonl                            one line a report
RUN/checkpoints/000001000/               after step 1000
    config.toml  model.safetensors       the model: all that sampling needs (averaged weights)
    state.safetensors  state.json        what resuming needs besides: weights, optimiser, place
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from clearwater.config import Config
from clearwater.errors import ClearwaterError, InputError
from clearwater.files import sync, write_atomically, write_through

__all__ = ["Checkpoint", "Place", "RunFolder"]

_KEPT = 2
_ENDS = ("training.steps ", "training.minutes ")
_STATE_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of training after a step; all that it takes to go on, since random numbers follow from the step.

    Attributes:
        step, seconds, images: steps done, training time, images seen.
        data: digest of the images that were trained on.
        averaged: the averaged weights by parameter name.
        network: the weights in training by parameter name.
        optimizer: the optimiser's tensors, "parameter name/moment".
        times: what the sampler of levels remembers, if anything.
    """

    step: int
    seconds: float
    images: int
    data: str
    averaged: dict[str, Tensor]
    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    times: dict[str, Tensor] = field(default_factory=dict)


class Place(BaseModel):
    """How far a checkpoint is: what `state.json` holds."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: int = _STATE_FORMAT
    step: int
    seconds: float
    images: int
    data: str


class RunFolder:
    """A folder that holds one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []

    @classmethod
    def create(cls, path: Path, config: Config) -> RunFolder:
        """The run folder at `path`: a new one, or the one of an earlier run with the same configuration.

        The end of training alone may differ: the run then goes on to the new end.

        Raises:
            InputError: the folder holds something else, or a run with another configuration.
        """
        cls.refuse_other(path)
        run = cls(path)
        if run._config_path.is_file():
            differences = run.config().differences(config)
            if differences and all(name.startswith(_ENDS) for name in differences):
                write_atomically(run._config_path, config.to_toml().encode())  # the same run to another end
            elif differences:
                raise InputError(
                    f"'{path}' holds a run with other settings (there and now: {'; '.join(differences)}): "
                    "repeat its own command to go on with it, or give --out another folder."
                )
            return run
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(run._config_path, config.to_toml().encode())
        return run

    @classmethod
    def refuse_other(cls, path: Path) -> None:
        """Refuses, with an `InputError`, a path where something is that is not a run to go on with."""
        if cls._is_checkpoint(path):
            raise InputError(f"'{path}' is one checkpoint of a run: give --out the run's own folder, or another.")
        if path.exists() and not path.is_dir():
            raise InputError(f"'{path}' is a file: give --out a folder that does not exist, is empty or holds a run.")
        if path.is_dir() and not cls(path)._config_path.is_file() and any(path.iterdir()):
            raise InputError(f"'{path}' holds something that is not a run: give --out an empty or a new folder.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run at `path`, or the one of which only this checkpoint is left.

        Raises:
            InputError: there is no run.
        """
        run = cls(path)
        if not run._config_path.is_file():
            what = "is not a run folder (it has no config.toml)" if path.exists() else "does not exist"
            raise InputError(f"'{path}' {what}: give the folder that `clearwater train` wrote with --out.")
        return run

    def config(self) -> Config:
        """The configuration of the run."""
        try:
            text = self._config_path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"'{self._config_path}' is not a text file: restore it, or train again.") from None
        return Config.from_toml(text, str(self._config_path))

    def save(self, checkpoint: Checkpoint, config: Config) -> Path:
        """Writes a checkpoint beside the earlier ones, then removes all but the last few. Returns its folder."""
        folder = self._checkpoints / f"{checkpoint.step:09d}"
        for stray in [*self._checkpoints.glob("*.part"), *self._checkpoints.glob("*.replaced")]:
            shutil.rmtree(stray, ignore_errors=True)
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        try:
            write_through(part / "config.toml", config.to_toml().encode())
            _save_tensors(part / "model.safetensors", checkpoint.averaged)
            _save_tensors(
                part / "state.safetensors",
                {
                    **{f"network/{name}": value for name, value in checkpoint.network.items()},
                    **{f"optimizer/{name}": value for name, value in checkpoint.optimizer.items()},
                    **{f"times/{name}": value for name, value in checkpoint.times.items()},
                },
            )
            place = Place(
                step=checkpoint.step, seconds=checkpoint.seconds, images=checkpoint.images, data=checkpoint.data
            )
            write_through(part / "state.json", place.model_dump_json().encode())
            sync(part)
            if folder.exists():  # torn, perhaps: training came here again from an earlier one
                folder.rename(folder.with_suffix(".replaced"))
            part.rename(folder)
            sync(self._checkpoints)
            shutil.rmtree(folder.with_suffix(".replaced"), ignore_errors=True)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        # Later ones could not be read, or training would not be here; earlier ones beyond the last few are spent.
        earlier = [other for other in self._folders() if other.name <= folder.name]
        for spent in set(self._folders()) - set(earlier[-_KEPT:]):
            shutil.rmtree(spent, ignore_errors=True)
        return folder

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, or None if none was written. Torn ones go to `warnings`."""
        for folder, place in self._readable():
            try:
                averaged = load_file(folder / "model.safetensors")
                state = load_file(folder / "state.safetensors")
            except (OSError, SafetensorError) as error:
                self._warn(folder, error)
                continue
            return Checkpoint(
                step=place.step,
                seconds=place.seconds,
                images=place.images,
                data=place.data,
                averaged=averaged,
                network=_below(state, "network/"),
                optimizer=_below(state, "optimizer/"),
                times=_below(state, "times/"),
            )
        return None

    def model(self, weights: Literal["ema", "raw"] = "ema") -> tuple[dict[str, Tensor], Place]:
        """The weights of the newest readable checkpoint, averaged or raw, and its place: step, seconds, images."""
        for folder, place in self._readable():
            try:
                if weights == "raw":
                    return _below(load_file(folder / "state.safetensors"), "network/"), place
                return load_file(folder / "model.safetensors"), place
            except (OSError, SafetensorError) as error:
                self._warn(folder, error)
        raise ClearwaterError(f"'{self.path}' has no checkpoint that can be read: train it first, or again.")

    def keep(self, what: str, tensors: dict[str, Tensor], key: dict[str, str]) -> None:
        """Keeps what was measured of a model; `key` says of what (checkpoint, clipping, weights)."""
        write_atomically(self._kept_path(what, key), save(tensors, metadata=key))

    def kept(self, what: str, key: dict[str, str]) -> dict[str, Tensor] | None:
        """What was measured of this model under this name, or None."""
        try:
            with safe_open(self._kept_path(what, key), framework="pt") as file:
                if file.metadata() != key:
                    return None
                names = file.keys()
                return {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError):  # none yet, or torn: it is measured again
            return None

    def log(self, entry: dict[str, float]) -> None:
        """Adds a line to the log."""
        with self._log_path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a line that was torn when the machine went down
                    file.write(b"\n")
            file.write(json.dumps(entry).encode() + b"\n")

    def entries(self) -> list[dict[str, float]]:
        """The log, in the order of the steps; what an interruption made obsolete is left out."""
        kept: list[dict[str, float]] = []
        if self._log_path.is_file():
            for line in self._log_path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # the last line, torn when the machine went down
                    continue
                # A resumed run logs steps again from where it took up; they replace what came after.
                while kept and kept[-1]["step"] >= entry["step"]:
                    kept.pop()
                kept.append(entry)
        return kept

    @staticmethod
    def _is_checkpoint(path: Path) -> bool:
        return (path / "state.json").is_file()

    @property
    def _config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def _log_path(self) -> Path:
        return self.path / "log.jsonl"

    def _kept_path(self, what: str, key: dict[str, str]) -> Path:
        return self.path / f"{what}-{'-'.join(key.values())}.safetensors"

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _folders(self) -> list[Path]:
        if self._is_checkpoint(self.path):
            return [self.path]
        return sorted(folder for folder in self._checkpoints.glob("[0-9]*") if folder.name.isdecimal())

    def _readable(self) -> Iterator[tuple[Path, Place]]:
        """The checkpoints whose place can be read, newest first."""
        for folder in reversed(self._folders()):
            try:
                text = (folder / "state.json").read_bytes()
                written = json.loads(text)
                if isinstance(written, dict) and isinstance(written.get("format"), int):
                    self._refuse_other_format(folder, written["format"])
                place = Place.model_validate_json(text)
            except OSError as error:
                self._warn(folder, error)
            except ValueError:
                self._warn(folder, "its state.json is damaged")
            else:
                yield folder, place

    def _refuse_other_format(self, folder: Path, written: int) -> None:
        if written != _STATE_FORMAT:
            raise ClearwaterError(
                f"The checkpoint '{folder}' was written by another version of clearwater "
                f"(format {written}, this one reads {_STATE_FORMAT}): use that version."
            )

    def _warn(self, folder: Path, reason: object) -> None:
        self.warnings.append(f"The checkpoint '{folder}' cannot be read ({reason}), so it is passed over.")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(f"'{path}' could not be written ({error})") from None
    sync(path)
