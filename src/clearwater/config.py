"""The one configuration schema: the command line, the TOML files, the recipes and the checkpoints share it."""

from __future__ import annotations

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


Count = Annotated[int, Field(ge=1)]
Size = Annotated[tuple[Count, Count], BeforeValidator(_square)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """What is trained on."""

    source: str = "fashion-mini"
    size: Size | None = Field(None, description="height and width, or one number for both; none: the images' own")
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 RGB; none: what the images have")
    flip: bool = Field(False, description="mirror half of the images left to right")


class ModelConfig(_Section):
    """The U-Net; the defaults are the CIFAR-10 network of Ho et al. 2020."""

    channels: Count = 128
    multipliers: tuple[Count, ...] = Field((1, 2, 2, 2), min_length=1)
    blocks: Count = 2
    attention: tuple[Annotated[int, Field(ge=0)], ...] = (1,)
    heads: Count = 1
    dropout: float = Field(0.1, ge=0, lt=1)
    group_size: Count | None = Field(None, description="channels a group of the normalisations; none: 32 groups")
    patch: Count = Field(1, description="pixels are folded patch x patch into channels at the input")


class ChainConfig(_Section):
    """The noise levels and the reverse variance."""

    name: Literal["linear", "half_linear", "cosine", "sigmoid"] = "linear"
    levels: Count = 1000
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"


class ObjectiveConfig(_Section):
    """What the network predicts, and how its error is weighted."""

    target: Literal["eps", "x0", "v", "velocity", "score", "mean"] = "eps"
    weight: Literal["unweighted", "min_snr"] = "unweighted"
    gamma: float = Field(5.0, gt=0, description="of min_snr")
    times: Literal["uniform", "low_discrepancy"] = "uniform"


class TrainingConfig(_Section):
    """The optimisation and its end."""

    batch: Count = 128
    steps: Count | None = Field(None, description="end after this many steps")
    minutes: float | None = Field(None, gt=0, description="end after this much training time")
    learning_rate: float = Field(2e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    warmup: int = Field(5000, ge=0, description="steps over which the learning rate rises")
    anneal: Literal["trapezoid", "cosine", "constant"] = Field(
        "trapezoid", description="how the learning rate goes to the end"
    )
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="the largest decay of the average of the weights")
    ema_gamma: float = Field(6.94, ge=0, description="the decay warms up as (1 - 1/n)^(gamma + 1)")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0)
    save_minutes: float = Field(5.0, gt=0, description="time between checkpoints")

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
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

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
    layers = [_parsed((files("clearwater.recipes") / f"{recipe}.toml").read_text(), f"recipe {recipe}")]
    if file is not None:
        try:
            layers.append(_parsed(file.read_text(), str(file)))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The configuration file '{file}' cannot be read: {error}.") from None
    layers.extend(_setting(text) for text in sets)
    layers.extend(_nested(name, value) for name, value in (options or {}).items() if value is not None)
    merged: dict[str, Any] = {}
    for layer in layers:
        ends = layer.get("training")
        if isinstance(ends, dict) and {"steps", "minutes"} & ends.keys():
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


def _setting(text: str) -> dict[str, Any]:
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
