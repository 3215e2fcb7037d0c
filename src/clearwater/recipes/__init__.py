"""Recipes: named configurations, one TOML file each.

A recipe may begin with another one, which it names as `from`; what it says itself comes over that. How each was found
is in docs/experiments.md.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from clearwater.config import parsed
from clearwater.errors import InputError

__all__ = ["recipe_layers", "recipe_names", "suited_recipe"]

_SMALL, _MEDIUM = 48, 96  # sides, up to which images are small, and medium


def recipe_names() -> list[str]:
    """The names of the recipes that ship with the package."""
    return sorted(item.name.removesuffix(".toml") for item in files(__name__).iterdir() if item.name.endswith(".toml"))


def recipe_layers(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The settings of a recipe, after those of the recipes that it begins with, each with the name of its origin.

    Raises:
        InputError: there is no recipe of this name.
    """
    if name not in recipe_names():
        raise InputError(f"There is no recipe named '{name}': choose one of {', '.join(recipe_names())}.")
    origin = f"recipe {name}"
    layer = parsed((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"), origin)
    before = layer.pop("from", None)
    return [*(recipe_layers(before) if before is not None else []), (origin, layer)]


def suited_recipe(channels: int, size: tuple[int, int]) -> str:
    """The name of the recipe for images of so many channels and of this height and width."""
    side = max(size)
    if side <= _SMALL:
        return "small-grey" if channels == 1 else "small-colour"
    return "medium" if side <= _MEDIUM else "portrait"
