"""The configuration: its text form, its differences, its values."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clearwater.config import (
    ChainConfig,
    Config,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainingConfig,
)
from clearwater.errors import InputError
from clearwater.settings import resolve

_COUNTS = st.integers(1, 10**6)
_ENDS = st.one_of(
    st.just({}),
    _COUNTS.map(lambda steps: {"steps": steps}),
    st.floats(1e-6, 1e6).map(lambda minutes: {"minutes": minutes}),
)
_PIXELS = st.integers(1, 8192)
_CONFIGS = st.builds(
    Config,
    data=st.builds(
        DataConfig,
        source=st.text(st.characters(codec="utf-8")),
        size=st.one_of(st.none(), _PIXELS, st.tuples(_PIXELS, _PIXELS)),
        channels=st.sampled_from([None, 1, 3]),
        flip=st.booleans(),
    ),
    model=st.builds(
        ModelConfig,
        channels=st.integers(4, 8192),
        multipliers=st.lists(st.integers(1, 64), min_size=1).map(tuple),
        attention=st.lists(st.integers(0, 9)).map(tuple),
        dropout=st.floats(0, 1, exclude_max=True),
        group_size=st.one_of(st.none(), st.integers(2, 10**6)),
    ),
    chain=st.builds(
        ChainConfig,
        name=st.sampled_from(["linear", "half_linear", "cosine", "sigmoid", "vp", "flow", "learned"]),
        levels=_COUNTS,
        variance=st.sampled_from(["fixed_small", "fixed_large", "learned_range"]),
    ),
    objective=st.builds(
        ObjectiveConfig,
        loss=st.sampled_from(["squared", "vlb", "hybrid", "euclidean", "variance"]),
        target=st.sampled_from(["eps", "x0", "v", "velocity", "path_velocity", "score", "mean"]),
        weight=st.sampled_from(["unweighted", "bound", "min_snr", "edm", "p2", "sigmoid"]),
        gamma=st.floats(0, exclude_min=True, allow_infinity=False),
        bias=st.floats(allow_nan=False, allow_infinity=False),
        share=st.floats(0, exclude_min=True, allow_infinity=False),
        times=st.sampled_from(["uniform", "low_discrepancy", "importance", "logit_normal"]),
    ),
    training=st.builds(
        lambda end, rate, betas: TrainingConfig(learning_rate=rate, betas=betas, **end),
        _ENDS,
        st.floats(1e-300, 1e300),
        st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    ),
)


@given(_CONFIGS)
def test_toml_and_back_is_the_same_configuration(config: Config) -> None:
    assert Config.from_toml(config.to_toml(), "test") == config


@given(_CONFIGS)
def test_the_text_holds_what_is_set_and_nothing_else(config: Config) -> None:
    written = tomllib.loads(config.to_toml())
    for section, values in config.model_dump(mode="json").items():
        assert written[section] == {name: value for name, value in values.items() if value is not None}


def test_an_error_in_a_text_names_where_it_came_from() -> None:
    with pytest.raises(InputError, match=r"old/config\.toml"):
        Config.from_toml("[model]\nwidth = 4", "old/config.toml")
    with pytest.raises(InputError, match=r"old/config\.toml"):
        Config.from_toml("[model", "old/config.toml")


def test_differences_name_each_value_that_differs_and_no_other() -> None:
    config = resolve(recipe="small-grey")
    other = resolve(recipe="small-grey", sets=["model.channels=64", "data.size=16", "training.steps=5"])
    assert config.differences(config) == []
    assert config.differences(other) == [
        "data.size None and [16, 16]",
        "model.channels 32 and 64",
        "training.steps None and 5",
        "training.minutes 3.0 and None",
    ]


def test_one_number_for_the_size_means_a_square() -> None:
    assert DataConfig(size=24) == DataConfig(size=(24, 24))  # type: ignore[arg-type]


def test_a_configuration_cannot_be_changed_behind_the_back_of_its_users() -> None:
    config = resolve(recipe="small-grey")
    with pytest.raises(ValidationError, match="frozen"):
        config.model.channels = 64
    assert config.model.channels == 32
