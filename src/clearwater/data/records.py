"""JSON that knows whether it is as it was written."""

from __future__ import annotations

import json
import zlib
from typing import Any

__all__ = ["seal", "unseal"]


def seal(content: dict[str, Any]) -> bytes:
    """One line, with a checksum of the content in it."""
    return json.dumps({"checksum": _checksum(content), "content": content}).encode() + b"\n"


def unseal(line: bytes) -> dict[str, Any] | None:
    """The content of a line that `seal` made; None if it is damaged or cut short."""
    try:
        found = json.loads(line)
        content: dict[str, Any] = found["content"]
        return content if line.endswith(b"\n") and found["checksum"] == _checksum(content) else None
    except (ValueError, KeyError, TypeError):
        return None


def _checksum(content: object) -> int:
    return zlib.crc32(json.dumps(content).encode())
