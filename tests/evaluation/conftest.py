"""What the tests of a run's report share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from reports import Element, parsed, run_of

from clearwater.config import Config
from clearwater.evaluation.report import report_page


@pytest.fixture
def page(tiny: Callable[..., Config], tmp_path: Path) -> Callable[..., Element]:
    """The parsed report of a run with these entries: ``page(entries, "training.steps=100", …)``."""

    def make(entries: list[dict[str, object]] | None, *sets: str) -> Element:
        return parsed(report_page(run_of(tmp_path / "run", tiny(*sets), entries)))

    return make
