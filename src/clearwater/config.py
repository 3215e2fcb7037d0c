"""The one configuration schema: the command line, the TOML files, the recipes and the checkpoints share it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
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
    "parsed",
    "validated",
]


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


# The upper limits are far beyond use: they catch slips of the finger before they ask for all the memory.
Count = Annotated[int, Field(ge=1, le=10**9)]
Small = Annotated[int, Field(ge=1, le=64)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Decay = Annotated[float, Field(ge=0, lt=1)]
# The names that `chains` and `variances` know, and learned (a test compares them): torch is not loaded to check one.
ChainName = Literal["linear", "half_linear", "cosine", "sigmoid", "vp", "flow", "learned"]
VarianceName = Literal["fixed_small", "fixed_large", "learned_range"]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_square)]


_ARRAY = re.compile(r"\[\n((?: +[^\n]*,\n)+)\]")  # as tomli_w writes them: a line an element


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _setting(default: Any, description: str, **limits: Any) -> Any:
    """A field; every setting says what it is, and docs/configuration.md is made of that."""
    return Field(default, description=description, **limits)


class DataConfig(_Section):
    """What is trained on."""

    source: str = _setting(
        "fashion-mini",
        "fashion-mini, the path of images (a folder, zip, tar, Parquet, IDX, npz or npy), or hf:NAME (docs/data.md)",
    )
    size: Size | None = _setting(
        None, "[height, width], or one number for both; unset: the images' own if they share one of at most 64, else 32"
    )
    channels: Literal[1, 3] | None = _setting(None, "1 grey, 3 RGB; unset: what the images have")
    held_out: Annotated[int, Field(ge=0)] | None = _setting(
        None,
        "images that are not trained on but measured with, chosen once; unset: one in twenty, at most 1,000, of 200 or "
        "more images that have no held-out part of their own",
    )
    flip: bool = _setting(False, "mirror each image left to right half of the time")
    augment: float = _setting(
        0.0,
        "probability of scaling, turning, stretching and moving an image, of which the network is told so that it does "
        "not draw such images; 0.1 to 0.3 for few photographs; replaces flip",
        ge=0,
        le=1,
    )
    labels: bool = _setting(False, "whether the network is told the class of each image")
    classes: tuple[str, ...] | None = _setting(
        None,
        "names of the classes in the order of their numbers, for data that has no others; unset: what the data has",
    )


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
    group_size: Annotated[int, Field(ge=2, le=10**9)] | None = _setting(
        None, "channels a group of the normalisations; unset: 32 groups; multiples of 16 are fast on a processor"
    )
    patch: Small = _setting(1, "pixels are folded patch × patch into channels at the input, and back at the output")


class ChainConfig(_Section):
    """The noise levels and the reverse variance."""

    name: ChainName = _setting(
        "linear",
        "linear, half_linear, cosine, sigmoid; vp, the SDE of which linear is a cut; flow, the straight path of "
        "rectified flow, for every target but eps and score; or learned: trained through the bound, with loss vlb",
    )
    levels: int = _setting(1000, "T, the number of steps from data to the prior", ge=1, le=10**6)
    variance: VarianceName = _setting(
        "fixed_small",
        "of the reverse steps: fixed_small, fixed_large, or learned_range: between them, by extra channels of the "
        "network, with loss hybrid or vlb",
    )


class ObjectiveConfig(_Section):
    """What the network predicts, and what is made small of its error."""

    loss: Literal["squared", "vlb", "hybrid", "euclidean", "variance"] = _setting(
        "squared",
        "squared: the weighted error of the target; vlb: the whole bound; hybrid: squared + share · vlb, for a "
        "learned range; euclidean: the error of x_s itself; variance is what `clearwater variance` trains",
    )
    target: Literal["eps", "x0", "v", "velocity", "path_velocity", "score", "mean"] = _setting(
        "eps",
        "eps, x0, v, velocity (eps - x_0, that of the chain flow), path_velocity (that of the chain vp or flow), score "
        "or mean",
    )
    weight: Literal["unweighted", "bound", "min_snr", "edm", "p2", "sigmoid"] = _setting(
        "unweighted",
        "of the squared error: unweighted (with eps: L_simple); bound: the bound's own; min_snr: min(SNR, gamma) on "
        "the error of x_0; edm; p2; sigmoid",
    )
    gamma: float = _setting(5.0, "of min_snr", gt=0)
    sigma_data: float = _setting(0.5, "of edm: standard deviation of the data", gt=0)
    p2_gamma: float = _setting(1.0, "of p2: (p2_k + SNR)^-p2_gamma on the error of eps", ge=0)
    p2_k: float = _setting(1.0, "of p2", gt=0)
    bias: float = _setting(2.0, "of sigmoid: sigmoid(bias - log SNR) on the error of eps")
    share: float = _setting(0.001, "of hybrid", gt=0)
    times: Literal["uniform", "low_discrepancy", "importance", "logit_normal", "mode", "log_normal"] = _setting(
        "uniform",
        "uniform; low_discrepancy: uniform too, but spread evenly over a batch; importance: more often where the "
        "loss is large, and weighted so that the mean stays; logit_normal: the middle more often; mode: the same, "
        "and the ends are not left out; log_normal: normal in log(sigma / alpha), as EDM",
    )
    mode_scale: float = _setting(1.29, "of mode: -1, the ends most often, to 1.75, the middle", ge=-1, le=1.7519)
    shift: float = _setting(
        1.0, "of times, towards noise: log-SNR falls by 2 log(shift); √m for m times as many pixels", gt=0
    )
    coupling: Literal["independent", "optimal", "sinkhorn", "reflow"] = _setting(
        "independent",
        "which noise goes with which image, for flows: independent; optimal: the nearest within a batch, by exact "
        "assignment; sinkhorn: nearly so; reflow: of a folder that `clearwater sample` wrote, each image's own noise",
    )
    sinkhorn: float = _setting(
        0.1,
        "of the coupling sinkhorn: regularization, in standard deviations of the doubly centred squared distances",
        ge=0.05,
    )
    logit_mean: float = _setting(0.0, "of logit_normal; above zero for more noise")
    logit_std: float = _setting(1.0, "of logit_normal", gt=0)
    log_mean: float = _setting(-1.2, "of log_normal; above it for more noise")
    log_std: float = _setting(1.2, "of log_normal", gt=0)


class TrainingConfig(_Section):
    """The optimisation and its end."""

    batch: int = _setting(128, "images a step", ge=1, le=10**6)
    steps: Count | None = _setting(None, "end after this many steps")
    minutes: float | None = _setting(None, "end after this much time, from the start of the command", gt=0)
    microbatch: Count | None = _setting(
        None, "images a process works on at a time, for less memory; unset: its whole part of the batch"
    )
    optimizer: Literal["adam", "adamw", "muon"] = _setting(
        "adam", "adam; adamw; muon: matrices turned to what is orthogonal, the rest as adamw"
    )
    learning_rate: float = _setting(2e-4, "of the optimiser, after the warm-up", gt=0)
    betas: tuple[Decay, Decay] = _setting((0.9, 0.999), "of Adam")
    weight_decay: float = _setting(0.0, "of adamw and muon (of adam: added to the gradient)", ge=0)
    warmup: int = _setting(5000, "steps over which the learning rate rises", ge=0)
    anneal: Literal["trapezoid", "cosine", "constant"] = _setting(
        "trapezoid",
        "how the learning rate goes to the end: constant with a straight fall in the last 40%, cosine, constant",
    )
    clip: float = _setting(1.0, "largest norm of the gradient", gt=0)
    ema_decay: float = _setting(0.9999, "largest decay of the average of the weights", ge=0, lt=1)
    ema_gamma: float = _setting(6.94, "until then the decay is (1 - 1/n)^(ema_gamma + 1) after n steps", ge=0)
    ema_snapshots: int = _setting(
        0, "how often on the way two more averages are kept, of which `clearwater ema` makes one of any length", ge=0
    )
    label_dropout: float = _setting(
        0.1, "share of the images whose class is withheld, so that guidance has something to go away from", ge=0, le=1
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = _setting(
        "auto",
        "of the network's matrix work; auto: bf16 where the device is fast at it; fp16 scales the loss as it needs; "
        "tf32 is of NVIDIA's GPUs",
    )
    compile: bool = _setting(False, "whether torch compiles the network first; measure whether it pays")
    shard: bool = _setting(
        False, "whether many processes divide the weights among them, for a network that does not fit into one"
    )
    recompute: bool = _setting(
        False, "whether the backward pass computes each block's inside again: a third slower, far less memory"
    )
    start: str | None = _setting(None, "the run whose averaged weights are begun with; unset: random ones")
    seed: int = _setting(0, "of all random numbers", ge=0)
    save_minutes: float = _setting(
        5.0, "minutes of training between checkpoints, at most; a run of minutes has ten or more", gt=0
    )

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
        return validated(parsed(text, origin), origin)

    def differences(self, other: Config) -> list[str]:
        """One phrase for each value that differs: "name is ours here and theirs there"."""
        ours, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def parsed(text: str, origin: str) -> dict[str, Any]:
    """The values in this TOML text; `origin` names it in errors."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin} is not valid TOML: {error}.") from None


def validated(values: Mapping[str, Any], origin: str) -> Config:
    """The configuration of these values, and of defaults where they are silent."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(f"In {origin}, {'; '.join(_complaint(dict(item)) for item in error.errors())}.") from None


def _complaint(item: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"there is no setting named '{name}' (see docs/configuration.md)"
    if item["type"] == "model_type":
        return f"{name} is a section, not {item['input']!r}: set one of its settings, such as {name}.{_FIRST[name]}"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{name} is {item['input']!r}, but {message}" if item["type"] != "value_error" else message


_FIRST = {name: next(iter(type(field.default).model_fields)) for name, field in Config.model_fields.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat
