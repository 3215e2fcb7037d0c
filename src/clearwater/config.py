"""The one configuration schema: the command line, the TOML files, the recipes and the checkpoints share it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from clearwater.errors import InputError

__all__ = [
    "ChainConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "TrainingConfig",
    "recipe_names",
    "resolve",
]


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


# The upper limits are far beyond use: they catch slips of the finger before they ask for all the memory.
Count = Annotated[int, Field(ge=1, le=10**9)]
Small = Annotated[int, Field(ge=1, le=64)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Decay = Annotated[float, Field(ge=0, lt=1)]
# The names that `chains` and `variances` know (a test compares them): torch is not loaded to check a setting.
ChainName = Literal["linear", "half_linear", "cosine", "sigmoid"]
VarianceName = Literal["fixed_small", "fixed_large"]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_square)]


_ARRAY = re.compile(r"\[\n((?: +[^\n]*,\n)+)\]")  # as tomli_w writes them: a line an element


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _setting(default: Any, description: str, **limits: Any) -> Any:
    """A field; every setting says what it is, and docs/configuration.md is made of that."""
    return Field(default, description=description, **limits)


class DataConfig(_Section):
    """What is trained on."""

    source: str = _setting("fashion-mini", "fashion-mini, or the path of a folder of images")
    size: Size | None = _setting(
        None, "[height, width], or one number for both; unset: the images' own if they share one of at most 64, else 32"
    )
    channels: Literal[1, 3] | None = _setting(None, "1 grey, 3 RGB; unset: what the images have")
    flip: bool = _setting(False, "mirror each image left to right half of the time")


class ModelConfig(_Section):
    """The U-Net. The schema's defaults are the CIFAR-10 network of Ho et al. 2020."""

    channels: int = _setting(128, "width of the first level", ge=4, le=8192)
    multipliers: tuple[Small, ...] = _setting(
        (1, 2, 2, 2), "width of each level as a multiple of `channels`; each level halves the size", min_length=1
    )
    blocks: Small = _setting(2, "residual blocks a level on the way down; one more on the way up")
    attention: tuple[Annotated[int, Field(ge=0)], ...] = _setting(
        (1,), "levels with self-attention, 0 = the finest; the middle always has it"
    )
    heads: Count = _setting(1, "attention heads")
    dropout: float = _setting(0.1, "dropout rate inside the residual blocks", ge=0, lt=1)
    group_size: Count | None = _setting(
        None, "channels a group of the normalisations; unset: 32 groups; multiples of 16 are fast on a processor"
    )
    patch: Small = _setting(1, "pixels are folded patch × patch into channels at the input, and back at the output")


class ChainConfig(_Section):
    """The noise levels and the reverse variance."""

    name: ChainName = _setting("linear", "linear, half_linear, cosine or sigmoid")
    levels: int = _setting(1000, "T, the number of steps from data to the prior", ge=1, le=10**6)
    variance: VarianceName = _setting("fixed_small", "fixed_small or fixed_large, of the reverse steps")


class ObjectiveConfig(_Section):
    """What the network predicts, and how its error is weighted."""

    target: Literal["eps", "x0", "v", "velocity", "score", "mean"] = _setting(
        "eps", "eps, x0, v, velocity, score or mean"
    )
    weight: Literal["unweighted", "min_snr"] = _setting(
        "unweighted", "unweighted (with eps: L_simple), or min_snr: min(SNR, gamma) on the error of x_0"
    )
    gamma: float = _setting(5.0, "of min_snr", gt=0)
    times: Literal["uniform", "low_discrepancy"] = _setting(
        "uniform", "uniform, or low_discrepancy: uniform too, but spread evenly over a batch"
    )


class TrainingConfig(_Section):
    """The optimisation and its end."""

    batch: int = _setting(128, "images a step", ge=1, le=10**6)
    steps: Count | None = _setting(None, "end after this many steps")
    minutes: float | None = _setting(None, "end after this much training time", gt=0)
    learning_rate: float = _setting(2e-4, "of Adam, after the warm-up", gt=0)
    betas: tuple[Decay, Decay] = _setting((0.9, 0.999), "of Adam")
    warmup: int = _setting(5000, "steps over which the learning rate rises", ge=0)
    anneal: Literal["trapezoid", "cosine", "constant"] = _setting(
        "trapezoid",
        "how the learning rate goes to the end: constant with a straight fall in the last 40%, cosine, constant",
    )
    clip: float = _setting(1.0, "largest norm of the gradient", gt=0)
    ema_decay: float = _setting(0.9999, "largest decay of the average of the weights", ge=0, lt=1)
    ema_gamma: float = _setting(6.94, "until then the decay is (1 - 1/n)^(ema_gamma + 1) after n steps", ge=0)
    precision: Literal["auto", "fp32", "bf16"] = _setting(
        "auto", "of the network's matrix work; auto: bf16 where the device is fast at it"
    )
    seed: int = _setting(0, "of all random numbers", ge=0)
    save_minutes: float = _setting(5.0, "training time between checkpoints", gt=0)

    @model_validator(mode="after")
    def _one_end(self) -> TrainingConfig:
        if self.steps is not None and self.minutes is not None:
            raise ValueError("training ends after steps or after minutes: give one of the two")
        return self


class Config(_Section):
    """A whole run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    chain: ChainConfig = ChainConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()

    def to_toml(self) -> str:
        """The configuration as TOML; what is unset is left out."""
        text = tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
        return _ARRAY.sub(lambda array: f"[{' '.join(array[1].split()).rstrip(',')}]", text)

    @classmethod
    def from_toml(cls, text: str, origin: str) -> Config:
        """The configuration in this TOML text; `origin` names it in errors."""
        return _validated(_parsed(text, origin), origin)

    def differences(self, other: Config) -> list[str]:
        """One phrase for each value that differs: "name is ours here and theirs there"."""
        ours, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def recipe_names() -> list[str]:
    """The names of the recipes that ship with the package."""
    folder = files("clearwater.recipes")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def resolve(
    *, recipe: str, file: Path | None = None, sets: Sequence[str] = (), options: Mapping[str, object] | None = None
) -> Config:
    """A configuration from a recipe, then a file, then ``name=value`` settings, then options; the last wins.

    Args:
        recipe: the name of a recipe.
        file: a TOML file of the same schema, or None.
        sets: settings such as "model.channels=64"; the value is TOML, or else a string.
        options: dotted names to values; None is passed over.

    Raises:
        InputError: a name or a value that is not allowed.
    """
    if recipe not in recipe_names():
        raise InputError(f"There is no recipe named '{recipe}': choose one of {', '.join(recipe_names())}.")
    of_recipe = (files("clearwater.recipes") / f"{recipe}.toml").read_text(encoding="utf-8")
    layers = [(f"recipe {recipe}", _parsed(of_recipe, f"recipe {recipe}"))]
    if file is not None:
        try:
            layers.append((str(file), _parsed(file.read_text(encoding="utf-8"), str(file))))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The configuration file '{file}' cannot be read: {error}.") from None
    layers.extend((f"--set {text}", _assignment(text)) for text in sets)
    of_options: dict[str, Any] = {}  # one layer: two ends among them contradict each other
    for name, value in (options or {}).items():
        if value is not None:
            _merge(of_options, _nested(name, value))
    layers.append(("the options", of_options))
    merged: dict[str, Any] = {}
    for origin, layer in layers:
        _validated(layer, origin)
        if {"steps", "minutes"} & layer.get("training", {}).keys():
            # The end that a later layer sets replaces the one before, in whichever unit that was.
            for name in ("steps", "minutes"):
                merged.get("training", {}).pop(name, None)
        _merge(merged, layer)
    return _validated(merged, "the configuration")


def _parsed(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin} is not valid TOML: {error}.") from None


def _validated(values: Mapping[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(f"In {origin}, {'; '.join(_complaint(dict(item)) for item in error.errors())}.") from None


def _complaint(item: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"there is no setting named '{name}' (see docs/configuration.md)"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{name} is {item['input']!r}, but {message}" if item["type"] != "value_error" else message


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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat
