"""What training took, in a run's report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from reports import Element, entries_of
from run_folders import checkpoint_of

from clearwater.config import Config
from clearwater.training import RunFolder


def facts(root: Element) -> dict[str, tuple[str, ...]]:
    (shown,) = root.all("dl", "facts")
    return {row.all("dt")[0].text: tuple(each.text for each in row.all("dd")) for row in shown.children}


def test_the_cost_is_that_of_the_log_and_the_checkpoint(
    page: Callable[..., Element], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    entries = entries_of(4)  # 40 steps in 2 s
    for i, entry in enumerate(entries):
        entry |= {"device": "a processor, 2 threads", "energy_joules": 3000.0 * (i + 1), "energy_of": "processors"}
    page(entries)
    RunFolder.open(tmp_path / "run").save(checkpoint_of(40), tiny())  # 160 images, 20 s, weights of (2, 3) and (3,)
    assert facts(page(entries)) == {
        "Time": ("20 s", "8 images/s, with all that was looked at on the way"),
        "Images seen": ("160", "each as often as it was seen"),
        "Parameters": ("9",),
        "Images × parameters": ("1.4·10³", "the work grows with it, on any machine"),
        "Memory": ("504 MB", "the most at once, of the GPU or of the process"),
        "Machine": ("a processor, 2 threads",),
        "Energy": ("3.33 Wh", "counted by the processors; whatever else ran there is in it"),
    }


def test_energy_is_never_guessed(page: Callable[..., Element]) -> None:
    entries = entries_of(4)
    assert facts(page(entries))["Energy"][0] == "–"
    # Counted in a first part, and gone on with where nothing is counted: the sum is not what the run took.
    entries[1] |= {"energy_joules": 100.0, "energy_of": "processors"}
    assert facts(page(entries))["Energy"][0] == "–"


@pytest.mark.parametrize(("joules", "said"), [(12.34, "12.3 J"), (7200.0, "2 Wh"), (9e6, "2.5 kWh")])
def test_energy_has_a_unit_of_its_size(page: Callable[..., Element], joules: float, said: str) -> None:
    entries = entries_of(1)
    entries[0] |= {"energy_joules": joules, "energy_of": "GPU", "device": "2 processes, the first on a GPU"}
    entry = facts(page(entries))["Energy"]
    assert entry[0] == said
    assert entry[1].startswith("counted by the GPU, of the first process's machine;")


def test_a_run_that_went_on_elsewhere_names_both_machines(page: Callable[..., Element]) -> None:
    entries = entries_of(3)
    for entry, device in zip(entries, ("a", "a", "<b>"), strict=True):
        entry["device"] = device
    assert facts(page(entries))["Machine"] == ("a; then <b>",)
