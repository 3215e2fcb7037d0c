"""The pages that are made from the code are what the code says."""

import importlib.util
from pathlib import Path
from typing import get_args

from clearwater import chains, config, variances

DOCS = Path(__file__).parents[1] / "docs"


def test_the_configuration_page_is_the_schema() -> None:
    spec = importlib.util.spec_from_file_location("make_configuration", DOCS / "make_configuration.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert (DOCS / "configuration.md").read_text() == maker.page(), "run python docs/make_configuration.py"


def test_every_setting_says_what_it_is() -> None:
    for section in config.Config.model_fields.values():
        for name, field in type(section.default).model_fields.items():
            assert field.description, name


def test_the_schema_knows_the_names_that_the_library_knows() -> None:
    assert get_args(config.ChainName) == (*get_args(chains.ChainName), "learned")
    assert get_args(config.VarianceName) == get_args(variances.VarianceName)
