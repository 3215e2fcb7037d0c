"""The settings of a run: their layers, their refusals, the recipes, and what the names of objectives do to them."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from clearwater import settings
from clearwater.config import ChainConfig, Config, DataConfig, ModelConfig, validated
from clearwater.errors import InputError
from clearwater.recipes import recipe_layers, recipe_names, suited_recipe
from clearwater.settings import OBJECTIVES, resolve, without_effect


def _refusal(**layers: object) -> str:
    with pytest.raises(InputError) as caught:
        resolve(**{"recipe": "small-grey", **layers})  # type: ignore[arg-type]
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.endswith(".")
    return message


def _file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("layers", "channels"),
    [((), 32), (("file",), 40), (("file", "set"), 48), (("set",), 48), (("file", "set", "option"), 56)],
)
def test_the_last_of_recipe_file_set_and_option_wins(tmp_path: Path, layers: tuple[str, ...], channels: int) -> None:
    config = resolve(
        recipe="small-grey",
        file=_file(tmp_path, "[model]\nchannels = 40") if "file" in layers else None,
        sets=["model.channels=48"] if "set" in layers else [],
        options={"model.channels": 56 if "option" in layers else None},
    )
    assert config.model.channels == channels


def test_a_layer_leaves_the_other_values_of_its_section_alone(tmp_path: Path) -> None:
    config = resolve(
        recipe="small-grey",
        file=_file(tmp_path, "[model]\nblocks = 3"),
        sets=["model.heads=2"],
        options={"model.patch": 4},
    )
    assert config.model == ModelConfig(
        channels=32, multipliers=(1, 2), blocks=3, attention=(), heads=2, dropout=0.0, group_size=16, patch=4
    )


def test_the_last_of_two_settings_of_one_name_wins() -> None:
    assert resolve(recipe="small-grey", sets=["model.channels=48", "model.channels=64"]).model.channels == 64


def test_a_setting_is_toml_or_else_a_string() -> None:
    config = resolve(
        recipe="small-grey",
        sets=["data.source=my images", "model.multipliers=[1, 2, 4]", "chain.name=sigmoid", "data.flip=true"],
    )
    assert config.data == DataConfig(source="my images", flip=True)
    assert config.model.multipliers == (1, 2, 4)
    assert config.chain.name == "sigmoid"


@pytest.mark.parametrize(
    ("recipe", "file", "sets", "options", "end"),
    [
        ("small-grey", "", [], {}, (None, 3.0)),
        ("small-grey", "", [], {"training.steps": 5}, (5, None)),
        ("small-grey", "[training]\nsteps = 7", [], {}, (7, None)),
        ("small-grey", "[training]\nsteps = 7", [], {"training.minutes": 1.5}, (None, 1.5)),
        ("small-grey", "[training]\nsteps = 7", ["training.minutes=2"], {"training.steps": 9}, (9, None)),
        ("ddpm-cifar10", "", ["training.minutes=2"], {}, (None, 2.0)),
        ("ddpm-cifar10", "", [], {"training.seed": 1}, (800_000, None)),
    ],
)
def test_the_end_of_a_later_layer_replaces_the_earlier_in_either_unit(
    tmp_path: Path, recipe: str, file: str, sets: list[str], options: dict[str, object], end: tuple[object, object]
) -> None:
    training = resolve(recipe=recipe, file=_file(tmp_path, file), sets=sets, options=options).training
    assert (training.steps, training.minutes) == end


def test_steps_and_minutes_in_one_file_are_refused(tmp_path: Path) -> None:
    message = _refusal(file=_file(tmp_path, "[training]\nsteps = 7\nminutes = 2"))
    assert "steps" in message
    assert "minutes" in message


def test_steps_and_minutes_in_one_command_are_refused() -> None:
    message = _refusal(options={"training.steps": 7, "training.minutes": 2.0})
    assert "steps" in message
    assert "minutes" in message


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.chanels=64", "model.chanels"),
        ("modle.channels=64", "modle"),
        ("speed=9", "speed"),
        ("model.channels.width=64", "model.channels"),
        ("model.channels=wide", "model.channels"),
        ("model.channels=", "model.channels"),
        ("model.channels=0", "model.channels"),
        ("model.channels=1.5", "model.channels"),
        ("model=3", "model"),
        ("model.multipliers=[]", "model.multipliers"),
        ("model.dropout=1", "model.dropout"),
        ("data.size=0", "data.size"),
        ("data.size=[32, -1]", "data.size"),
        ("data.size=[32, 32, 3]", "data.size"),
        ("data.channels=2", "data.channels"),
        ("chain.name=quadratic", "chain.name"),
        ("objective.target=noise", "objective.target"),
        ("training.learning_rate=-1", "training.learning_rate"),
        ("training.ema_decay=1", "training.ema_decay"),
        ("training.seed=-1", "training.seed"),
    ],
)
def test_a_setting_that_cannot_be_is_named_in_one_sentence(setting: str, named: str) -> None:
    assert named in _refusal(sets=[setting])


@pytest.mark.parametrize("setting", ["training.learning_rate", "training.minutes"])
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
def test_a_rate_or_an_end_that_is_not_above_zero_and_finite_is_named(setting: str, value: str) -> None:
    assert setting in _refusal(sets=[f"{setting}={value}"])


def test_the_allowed_values_of_a_choice_are_listed() -> None:
    message = _refusal(sets=["chain.name=quadratic"])
    assert all(name in message for name in ("linear", "half_linear", "cosine", "sigmoid"))


@pytest.mark.parametrize("text", ["model.channels", "=64", " =64", ""])
def test_a_setting_without_name_and_value_is_refused(text: str) -> None:
    assert f"'{text}'" in _refusal(sets=[text])


def test_a_value_where_a_section_belongs_is_refused_also_when_an_option_goes_into_it() -> None:
    assert "training" in _refusal(sets=["training=5"], options={"training.steps": 3})


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    message = _refusal(recipe="large")
    assert "large" in message
    assert all(name in message for name in recipe_names())


def test_toml_that_does_not_parse_is_refused_with_the_name_of_its_file(tmp_path: Path) -> None:
    assert "mine.toml" in _refusal(file=_file(tmp_path, "[model\nchannels = 4"))


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    assert "none.toml" in _refusal(file=tmp_path / "none.toml")
    assert str(tmp_path) in _refusal(file=tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    assert "bytes.toml" in _refusal(file=tmp_path / "bytes.toml")


def test_an_unknown_name_in_a_file_is_refused(tmp_path: Path) -> None:
    assert "model.width" in _refusal(file=_file(tmp_path, "[model]\nwidth = 4"))


def test_the_recipes_are_the_files_that_ship() -> None:
    shipped = {item.name for item in files("clearwater.recipes").iterdir()}
    assert {f"{name}.toml" for name in recipe_names()} == {name for name in shipped if name.endswith(".toml")}
    assert {"small-grey", "ddpm-cifar10"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_means_what_it_says_and_ends(name: str) -> None:
    config = resolve(recipe=name)
    said = tomllib.loads((files("clearwater.recipes") / f"{name}.toml").read_text())
    before = said.pop("from", None)
    for section, values in said.items():
        for setting, value in values.items():
            read = getattr(getattr(config, section), setting)
            expected = (value, value) if setting == "size" else tuple(value) if isinstance(value, list) else value
            assert read == expected, f"{section}.{setting}"
    assert (config.training.steps is None) != (config.training.minutes is None)
    if before is not None:  # what it does not say itself is as in the one that it begins with
        own = {f"{section}.{setting}" for section, values in said.items() for setting in values}
        assert {each.split()[0] for each in config.differences(resolve(recipe=before))} <= own


def test_recipes_lie_over_one_another_in_order() -> None:
    assert [origin for origin, _ in recipe_layers("flow")] == ["recipe small-grey", "recipe flow"]


@pytest.mark.parametrize(
    ("channels", "size", "name"),
    [
        (1, (28, 28), "small-grey"),
        (3, (32, 32), "small-colour"),
        (1, (48, 20), "small-grey"),
        (3, (32, 64), "medium"),
        (1, (96, 96), "medium"),
        (3, (97, 64), "portrait"),
        (3, (256, 256), "portrait"),
    ],
)
def test_the_recipe_is_that_of_the_longer_side_and_for_small_images_of_the_colour(
    channels: int, size: tuple[int, int], name: str
) -> None:
    assert suited_recipe(channels, size) == name


def test_the_cifar10_recipe_is_the_published_one() -> None:
    # Ho et al. 2020, section 4 and appendix B, and its code (fixedlarge).
    config = resolve(recipe="ddpm-cifar10")
    assert config.data == DataConfig(size=(32, 32), flip=True)
    assert config.model == ModelConfig(
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        attention=(1,),  # 32 / 2 = 16: at 16 × 16
        heads=1,
        dropout=0.1,
        group_size=None,  # 32 groups
        patch=1,
    )
    assert config.chain == ChainConfig(name="linear", levels=1000, variance="fixed_large")
    assert (config.objective.target, config.objective.weight, config.objective.times) == (
        "eps",
        "unweighted",
        "uniform",
    )
    training = config.training
    assert (training.batch, training.steps, training.learning_rate, training.betas) == (
        128,
        800_000,
        2e-4,
        (0.9, 0.999),
    )
    assert (training.warmup, training.anneal, training.clip, training.ema_decay) == (5000, "constant", 1.0, 0.9999)


# --- objectives that have a name


def test_a_later_setting_wins_over_what_a_name_stands_for() -> None:
    config = resolve(recipe="small-grey", sets=["objective=min_snr", "objective.gamma=3", "objective.target=v"])
    assert (config.objective.weight, config.objective.gamma, config.objective.target) == ("min_snr", 3.0, "v")
    config = resolve(recipe="small-grey", sets=["objective=vlb", "chain.variance=fixed_large"])
    assert (config.objective.loss, config.chain.variance) == ("vlb", "fixed_large")


def test_a_name_wins_over_earlier_settings_and_leaves_alone_what_it_does_not_speak_of() -> None:
    before = ["objective.gamma=3", "objective.target=score", "objective.share=0.5", "chain.levels=77"]
    config = resolve(recipe="small-grey", sets=[*before, "objective=min_snr"])
    assert (config.objective.target, config.objective.gamma, config.objective.share) == ("x0", 5.0, 0.001)
    assert (config.chain.levels, config.objective.times) == (77, "low_discrepancy")  # the latter is the recipe's


@pytest.mark.parametrize("earlier", OBJECTIVES)
@pytest.mark.parametrize("later", OBJECTIVES)
def test_a_name_stands_for_the_same_after_any_other(earlier: str, later: str) -> None:
    sets = [f"objective={earlier}", "objective.p2_gamma=2", f"objective={later}"]
    assert resolve(recipe="small-grey", sets=sets) == resolve(recipe="small-grey", sets=[f"objective={later}"])


def test_the_later_of_two_names_wins() -> None:
    one, other = (
        resolve(recipe="small-grey", sets=sets).objective
        for sets in (["objective=edm", "objective=p2"], ["objective=p2"])
    )
    assert (one.loss, one.target, one.weight) == (other.loss, other.target, other.weight) == ("squared", "eps", "p2")


def test_a_file_may_name_its_objective_and_its_own_sections_win_over_it(tmp_path: Path) -> None:
    named = resolve(recipe="small-grey", file=_file(tmp_path, 'objective = "hybrid"\n[chain]\nlevels = 500'))
    spelled = '[objective]\nloss = "hybrid"\ntarget = "eps"\nweight = "unweighted"\n[chain]\n'
    spelled += 'levels = 500\nvariance = "learned_range"'
    assert named == resolve(recipe="small-grey", file=_file(tmp_path, spelled))
    mixed = resolve(recipe="small-grey", file=_file(tmp_path, 'objective = "vlb"\n[chain]\nvariance = "fixed_small"'))
    assert (mixed.objective.loss, mixed.chain.variance) == ("vlb", "fixed_small")
    later = resolve(recipe="small-grey", file=_file(tmp_path, 'objective = "hybrid"'), sets=["objective.share=0.1"])
    assert (later.objective.loss, later.objective.share) == ("hybrid", 0.1)


@pytest.mark.parametrize("setting", ["objective=perceptual", "objective=", "objective=Hybrid"])
def test_an_unknown_objective_is_refused_with_the_known_ones(setting: str) -> None:
    message = _refusal(sets=[setting])
    assert f"no objective named '{setting.partition('=')[2]}'" in message
    assert all(name in message for name in OBJECTIVES)


def test_a_number_is_no_name_of_an_objective() -> None:
    assert "objective is a section, not 3: set one of its settings, such as objective.loss" in _refusal(
        sets=["objective=3"]
    )


def test_settings_that_change_nothing_are_named_with_what_they_are_of() -> None:
    config = resolve(recipe="small-grey", sets=("objective.p2_gamma=2", "objective.gamma=3", "data.augment=0.2"))
    assert without_effect(config, {"objective.gamma", "model.channels", "data.augment", "training"}) == []
    assert without_effect(config, {"objective.p2_gamma", "data.flip", "training.label_dropout"}) == [
        "data.flip changes nothing here: it is of data.augment = 0.0, and data.augment is 0.2.",
        'objective.p2_gamma changes nothing here: it is of objective.weight = "p2", and objective.weight is "min_snr".',
        "training.label_dropout changes nothing here: it is of data.labels = true, and data.labels is false.",
    ]


def test_every_setting_of_a_choice_and_every_choice_is_in_the_schema() -> None:
    values = Config().model_dump()
    for name, (chooser, needed) in settings._OF_A_CHOICE.items():
        for each in (name, chooser):
            section, setting = each.split(".")
            assert setting in values[section], each
        section, setting = chooser.split(".")
        changed = {section: {setting: needed}}
        assert validated(changed, "here").model_dump()[section][setting] == needed
