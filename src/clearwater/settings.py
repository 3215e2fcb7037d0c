"""The settings of a run, from a recipe, a file and the command line: each layer over the one before."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from clearwater.config import Config, parsed, validated
from clearwater.errors import InputError
from clearwater.recipes import recipe_layers

__all__ = ["OBJECTIVES", "given_names", "resolve", "without_effect"]

_LEARNED_RANGE = {"variance": "learned_range"}

# What `objective = "name"` stands for: the published objectives.
OBJECTIVES: dict[str, dict[str, dict[str, str]]] = {
    "mu": {"objective": {"loss": "squared", "target": "mean", "weight": "bound"}},
    "x0": {"objective": {"loss": "squared", "target": "x0", "weight": "bound"}},
    "eps": {"objective": {"loss": "squared", "target": "eps", "weight": "bound"}},
    "simple": {"objective": {"loss": "squared", "target": "eps", "weight": "unweighted"}},
    "v": {"objective": {"loss": "squared", "target": "v", "weight": "unweighted"}},
    "vlb": {
        "objective": {"loss": "vlb", "target": "eps", "weight": "unweighted", "times": "importance"},
        "chain": _LEARNED_RANGE,
    },
    "hybrid": {"objective": {"loss": "hybrid", "target": "eps", "weight": "unweighted"}, "chain": _LEARNED_RANGE},
    "euclidean": {"objective": {"loss": "euclidean", "target": "mean", "weight": "unweighted"}},
    "min_snr": {"objective": {"loss": "squared", "target": "x0", "weight": "min_snr"}},
    "edm": {"objective": {"loss": "squared", "target": "v", "weight": "edm", "times": "log_normal"}},
    "p2": {"objective": {"loss": "squared", "target": "eps", "weight": "p2"}},
    "sigmoid": {"objective": {"loss": "squared", "target": "v", "weight": "sigmoid"}},
    "flow": {
        "objective": {"loss": "squared", "target": "velocity", "weight": "unweighted"},
        "chain": {"name": "flow"},
    },
}

# Settings of one choice alone: which setting makes it, and by what it is made.
_OF_A_CHOICE: dict[str, tuple[str, object]] = {
    "objective.gamma": ("objective.weight", "min_snr"),
    "objective.sigma_data": ("objective.weight", "edm"),
    "objective.p2_gamma": ("objective.weight", "p2"),
    "objective.p2_k": ("objective.weight", "p2"),
    "objective.bias": ("objective.weight", "sigmoid"),
    "objective.share": ("objective.loss", "hybrid"),
    "objective.logit_mean": ("objective.times", "logit_normal"),
    "objective.logit_std": ("objective.times", "logit_normal"),
    "objective.mode_scale": ("objective.times", "mode"),
    "objective.sinkhorn": ("objective.coupling", "sinkhorn"),
    "objective.log_mean": ("objective.times", "log_normal"),
    "objective.log_std": ("objective.times", "log_normal"),
    "training.label_dropout": ("data.labels", True),
    "data.flip": ("data.augment", 0.0),
}


def resolve(
    *,
    recipe: str,
    start: Config | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
) -> Config:
    """A configuration from a recipe, then a file, then ``name=value`` settings, then options; the last wins.

    Args:
        recipe: the name of a recipe.
        start: of a run whose weights are begun with: its model, chain, objective and images' size, channels and
            classes come over the recipe.
        file: a TOML file of the same schema, or None.
        sets: settings such as "model.channels=64"; the value is TOML, or else a string. "objective=hybrid"
            stands for what `OBJECTIVES` says.
        options: dotted names to values; None is passed over.

    Raises:
        InputError: a name or a value that is not allowed.
    """
    layers = recipe_layers(recipe)
    if start is not None:
        of_run = start.model_dump(exclude_none=True, include={"model", "chain", "objective"})
        of_data = start.data.model_dump(exclude_none=True, include={"size", "channels", "labels", "classes"})
        layers.append(("the run to start from", {**of_run, "data": of_data}))
    if file is not None:
        try:
            layers.append((str(file), parsed(file.read_text(encoding="utf-8"), str(file))))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The configuration file '{file}' cannot be read: {error}.") from None
    layers.extend((f"--set {text}", _assignment(text)) for text in sets)
    of_options: dict[str, Any] = {}  # one layer: two ends among them contradict each other
    for name, value in (options or {}).items():
        if value is not None:
            _merge(of_options, _nested(name, value))
    layers.append(("the options", of_options))
    merged: dict[str, Any] = {}
    last_name = max((i for i, (_, layer) in enumerate(layers) if isinstance(layer.get("objective"), str)), default=-1)
    for i, (origin, written) in enumerate(layers):
        layer = _expanded(written)
        validated(layer, origin)
        if i < last_name:
            layer = _without_objective(written)
        if {"steps", "minutes"} & layer.get("training", {}).keys():
            # The end that a later layer sets replaces the one before, in whichever unit that was.
            for name in ("steps", "minutes"):
                merged.get("training", {}).pop(name, None)
        _merge(merged, layer)
    return validated(merged, "the configuration")


def given_names(*, file: Path | None, sets: Sequence[str], options: Mapping[str, object]) -> set[str]:
    """The dotted names of the settings that a person has set, by a file, by ``name=value`` or by an option."""
    layers = [_assignment(text) for text in sets]
    if file is not None:
        layers.append(parsed(file.read_text(encoding="utf-8"), str(file)))
    layers += [_nested(name, value) for name, value in options.items() if value is not None]
    names = set()
    for layer in layers:
        for section, values in layer.items():
            names |= {f"{section}.{name}" for name in values} if isinstance(values, dict) else {section}
    return names


def without_effect(config: Config, names: Collection[str]) -> list[str]:
    """A sentence for each of these settings that changes nothing in this configuration."""
    values = config.model_dump()
    said = []
    for name in sorted(_OF_A_CHOICE.keys() & set(names)):
        chooser, needed = _OF_A_CHOICE[name]
        section, setting = chooser.split(".")
        if values[section][setting] != needed:
            wanted, there = (json.dumps(value) for value in (needed, values[section][setting]))
            said.append(f"{name} changes nothing here: it is of {chooser} = {wanted}, and {chooser} is {there}.")
    return said


def _without_objective(layer: dict[str, Any]) -> dict[str, Any]:
    """What is left of a layer when a later one names an objective: of the objective, only how levels are drawn."""
    left = {section: values for section, values in layer.items() if section != "objective"}
    objective = layer.get("objective")
    if isinstance(objective, dict) and "times" in objective:
        left["objective"] = {"times": objective["times"]}
    return left


def _expanded(layer: dict[str, Any]) -> dict[str, Any]:
    """The layer with the settings that the name of an objective stands for."""
    name = layer.get("objective")
    if not isinstance(name, str):
        return layer
    if name not in OBJECTIVES:
        raise InputError(f"There is no objective named '{name}': choose one of {', '.join(OBJECTIVES)}.")
    expanded = {section: dict(values) for section, values in OBJECTIVES[name].items()}
    _merge(expanded, {section: values for section, values in layer.items() if section != "objective"})
    return expanded


def _assignment(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set takes name=value, such as model.channels=64, not '{text}'.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return _nested(name.strip(), parsed)


def _nested(name: str, value: object) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value
