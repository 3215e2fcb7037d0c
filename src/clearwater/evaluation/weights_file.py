"""Weights of a network in a file that the user names: tensors, and never anything that runs."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clearwater.errors import InputError

__all__ = ["fit", "read_tensors", "sha256"]

_AROUND = ("state_dict", "model", "teacher")  # what checkpoints have around their tensors
_COUNTER = "num_batches_tracked"  # of batch normalization, which older files are without; it is not used to measure
_AT_ONCE = 2**24


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content.

    Raises:
        InputError: there is no such file.
    """
    content = hashlib.sha256()
    with _opened(path) as file:
        while part := file.read(_AT_ONCE):
            content.update(part)
    return content.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in one that torch wrote, by name, on the CPU.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    _opened(path).close()
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # whatever the two readers raise of a file that is not theirs
        said = str(error).strip().partition("\n")[0]
        raise InputError(
            f"'{path}' holds no weights that can be read ({said}): give a .safetensors file, or a .pth file of tensors "
            "that is whole."
        ) from None
    for name in _AROUND:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"'{path}' holds something else than tensors by name: give the state_dict of the network.")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def fit(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str, unused: Iterable[str] = ()) -> None:
    """Puts tensors into a network, all of them and into every place, in evaluation mode and without gradients.

    Args:
        network: the network.
        tensors: by name.
        path: where they are from, for messages.
        what: the network in words.
        unused: how names of tensors begin that the network may do without.

    Raises:
        InputError: they are those of another network.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(unused))}
    try:
        left = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise InputError(f"The weights in '{path}' are not those of {what}: {lines[0]}") from None
    missing = [name for name in left.missing_keys if not name.endswith(_COUNTER)]
    wrong = [f"it has no {name}" for name in missing] + [f"it has {name}" for name in left.unexpected_keys]
    if wrong:
        raise InputError(
            f"The weights in '{path}' are not those of {what}: {wrong[0]}"
            + (f", and {len(wrong) - 1} more names differ." if len(wrong) > 1 else ".")
        )
    network.eval().requires_grad_(False)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"The weights '{path}' cannot be opened: {error.strerror}.") from None


def _unpickled(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an old format is old
        return torch.load(path, map_location="cpu", weights_only=True)
