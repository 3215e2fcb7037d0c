"""Writes docs/configuration.md from the schema: python docs/make_configuration.py (a test compares the two)."""

from __future__ import annotations

from importlib.resources import files
from itertools import takewhile
from pathlib import Path

from clearwater.config import Config
from clearwater.recipes import recipe_names
from clearwater.settings import OBJECTIVES

_PAGE = Path(__file__).with_name("configuration.md")
_HEAD = """# Configuration

One schema serves the command line, TOML files, recipes and checkpoints. A run's settings are, each over
the one before: the recipe (`--recipe`, one of {recipes}), the file (`--config FILE.toml`), single settings
(`--set model.channels=64`), and the options with names of their own (`--steps`, `--minutes`, `--batch`,
`--seed`, `--size`). The last word on the end of training, in steps or minutes, replaces the one before.
What a run was made with is in its `config.toml`, which is itself a file for `--config`.

`objective` may be the name of a published objective in place of single settings, such as `--set objective=hybrid`;
settings after it change what it stands for:

| objective | stands for |
|---|---|
{objectives}

| recipe | what it is for |
|---|---|
{recipe_rows}

The defaults below are the schema's, which is Ho's CIFAR-10 model; what a run starts from is its recipe, in
`src/clearwater/recipes/`: the one that suits the images, unless another is named. This page is made from the schema by
`docs/make_configuration.py`.
"""


def page() -> str:
    """The page, from the schema."""
    objectives = "\n".join(f"| `{name}` | {_settings(sections)} |" for name, sections in OBJECTIVES.items())
    names = ", ".join(f"`{name}`" for name in recipe_names())
    rows = "\n".join(f"| `{name}` | {_about(name)} |" for name in recipe_names())
    parts = [_HEAD.format(recipes=names, objectives=objectives, recipe_rows=rows)]
    for section, holder in Config.model_fields.items():
        kind = type(holder.default)
        rows = [f"## [{section}]", "", kind.__doc__ or "", "", "| setting | default | what it is |", "|---|---|---|"]
        defaults = holder.default.model_dump(mode="json")
        for name, field in kind.model_fields.items():
            default = "unset" if defaults[name] is None else f"`{defaults[name]}`"
            rows.append(f"| `{section}.{name}` | {default} | {field.description} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _about(recipe: str) -> str:
    """The comment at the head of a recipe."""
    lines = (files("clearwater.recipes") / f"{recipe}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))


def _settings(sections: dict[str, dict[str, str]]) -> str:
    """Settings as they are written after --set."""
    return ", ".join(
        f"`{section}.{name}={value}`" for section, values in sections.items() for name, value in values.items()
    )


if __name__ == "__main__":
    _PAGE.write_text(page())
