"""What is seen of a run in training: pictures, figures on unseen images, and how much time they may take."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearwater import Clipped, UniPC, load_denoiser, sample
from clearwater.cli import cost, run, watching
from clearwater.cli import train as train_module
from clearwater.config import Config
from clearwater.data import ImageSet, load_images
from clearwater.evaluation.nearest import nearest
from clearwater.evaluation.unseen import some
from clearwater.pictures import enlarged, grid, step_of, to_uint8
from clearwater.training import Progress, RunFolder
from clearwater.training import trainer as trainer_module
from clearwater.training.optimization import Optimization


@pytest.fixture(scope="module")
def watched(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the built-in images that was looked at after every step."""
    home = tmp_path_factory.mktemp("watched")
    (home / "tiny.toml").write_text(tiny("data.size=28", "training.steps=2", "chain.levels=30").to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "_REPORT_SECONDS", 0.0)
        patch.setattr(watching, "_SOONEST", 0.0)
        patch.setattr(watching, "_SHARE", math.inf)
        assert run(["train", "fashion-mini", *options]) == 0
    return home / "run"


def test_the_last_picture_is_of_the_model_that_was_saved(watched: Path) -> None:
    assert sorted(path.name for path in (watched / "previews").iterdir()) == [f"{i:09d}.png" for i in (1, 2)]
    model = load_denoiser(watched, "cpu")
    made = to_uint8(sample(Clipped(model), 16, (1, 28, 28), chain=model.chain.strided(20), stepper=UniPC()))
    shown = np.asarray(Image.open(watched / "previews" / "000000002.png"))
    np.testing.assert_array_equal(shown, np.asarray(enlarged(grid(made))))
    data = load_images("fashion-mini").images
    index, _ = nearest(made, data)
    rows = torch.cat([made[:8], data[index[:8]], made[8:], data[index[8:]]])
    np.testing.assert_array_equal(
        np.asarray(Image.open(watched / "nearest.png")), np.asarray(enlarged(grid(rows, columns=8)))
    )


def test_the_last_look_draws_the_processes_of_the_model_that_was_saved(watched: Path, tmp_path: Path) -> None:
    assert {step_of(watched / name) for name in ("forward.png", "reverse.png", "nearest.png")} == {2}
    shown = {"forward": [], "reverse": ["--sampler", "unipc", "--levels", "20", "--device", "cpu"]}
    for name, options in shown.items():
        assert run(["show", name, str(watched), "--out", str(tmp_path / f"{name}.png"), "--n", "4", *options]) == 0
        again, drawn = (np.asarray(Image.open(folder / f"{name}.png")) for folder in (tmp_path, watched))
        np.testing.assert_allclose(drawn.astype(int), again.astype(int), atol=1)
    page = (watched / "report.html").read_text(encoding="utf-8")
    assert base64.b64encode((watched / "reverse.png").read_bytes()).decode() in page


def test_the_log_says_what_the_machine_is_and_what_it_used_over_all_parts(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = tmp_path / "powercap" / "intel-rapl:0"
    counted.mkdir(parents=True)
    (counted / "name").write_text("package-0")
    (counted / "max_energy_range_uj").write_text("1e12")

    def count(joules: float) -> None:
        (counted / "energy_uj").write_text(str(joules * 1e6))

    count(500.0)
    before = cost.Cost(torch.device("cpu"), powercap=counted.parent)
    count(507.5)
    told = before.so_far()
    assert told["energy_joules"] == 7.5
    assert told["energy_of"] == "processors"
    assert told["device"].endswith((" thread", " threads"))
    count(1.0)  # the machine was started again in between
    after = cost.Cost(torch.device("cpu"), [{}, told], powercap=counted.parent)
    count(3.0)
    assert after.so_far()["energy_joules"] == 9.5
    # What a first part used is not known: no figure is given that would be taken for the whole.
    assert "energy_joules" not in cost.Cost(torch.device("cpu"), [told, {}], powercap=counted.parent).so_far()
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert cost.Cost(torch.device("cpu"), powercap=counted.parent).so_far()["device"].startswith("3 processes, ")


def test_the_log_says_what_was_seen(watched: Path) -> None:
    entries = RunFolder.open(watched).entries()
    assert [entry["step"] for entry in entries] == [1, 2]
    for entry in entries:
        assert entry["preview"] == f"{entry['step']:09d}.png"
        assert entry["unseen_images"] == "held_out"
        assert 0.3 < entry["unseen_loss"] < 3
        assert entry["bits_per_dim"] > 1
        assert entry["bits_per_dim_error"] > 0
        assert entry["gradient_norm"] > 0
        assert len(entry["level_losses"]) == 10
        assert all(loss is None or loss > 0 for loss in entry["level_losses"])
        assert entry["memory_mb"] > 50
        assert "thread" in entry["device"]
    assert len({entry["unseen_loss"] for entry in entries}) == 2
    assert (watched / "report.html").stat().st_size > 1000


def test_looking_takes_its_share_of_the_time_and_no_more(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: a step and a report a second, and a look that takes three."""
    config = tiny("training.steps=400")
    now = [0.0]
    looks = []

    step = Optimization.step

    def stepping(self: Optimization, *args: Any) -> torch.Tensor:
        now[0] += 1.0
        return step(self, *args)

    def look(self: watching.Watch, event: object, sight: object) -> dict[str, object]:
        looks.append(event.seconds)
        now[0] += 3
        self._cost, self._looked, self._measured = 3.0, event.seconds, True
        return {}

    monkeypatch.setattr(Optimization, "step", stepping)
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(train_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(watching, "_LOOK", 0.0)
    monkeypatch.setattr(watching.Watch, "_look", look)
    (tmp_path / "tiny.toml").write_text(config.to_toml())
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    options = ["--out", str(tmp_path / "run"), "--config", str(tmp_path / "tiny.toml"), "--steps", "800"]
    assert run(["train", str(tmp_path / "images"), *options, "--device", "cpu"], began=0.0) == 0
    between = np.diff(looks[:-1])  # the last look is at the end, whenever the one before was
    assert len(between) >= 3
    assert between[0] >= 150
    assert all(150 <= seconds < 160 for seconds in between)
    assert 15 <= looks[0] < 17


def test_time_is_kept_back_for_the_last_look_before_there_was_one(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A look is 16 images in 20 evaluations and 256 in one; an image of training is about three. 4e8 pixels are compared
    # in a second and 4e6 drawn, of 4 rows of a strip and 8 of another, 11 images each; the rest of the end takes 1.5 s,
    # and a quarter of a look is kept in hand.
    reserves: list[tuple[float, float]] = []

    def look(self: watching.Watch, event: Progress, sight: object) -> dict[str, object]:
        reserves.append((self._trainer.reserve, event.images_per_second))
        return {}

    monkeypatch.setattr(watching.Watch, "_look", look)
    (tmp_path / "tiny.toml").write_text(tiny("data.size=28").to_toml())
    options = ["--out", str(tmp_path / "run"), "--config", str(tmp_path / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options]) == 0
    ((reserve, speed),) = reserves
    drawing = 12 * 11 * 28 * 28 / 4e6
    assert reserve == pytest.approx(1.5 + 9000 * 28 * 28 / 4e8 + drawing + 1.25 * (16 * 20 + 256) / 3 / speed)


def test_training_images_are_measured_where_nothing_is_held_out(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(tiny("training.steps=2").to_toml())
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    options = ["--out", str(tmp_path / "run"), "--config", str(tmp_path / "tiny.toml"), "--device", "cpu"]
    assert run(["train", str(tmp_path / "images"), *options]) == 0
    (entry,) = [each for each in RunFolder.open(tmp_path / "run").entries() if "preview" in each]
    assert (entry["step"], entry["unseen_images"]) == (2, "train")
    assert "bits_per_dim" not in entry  # in two steps there is no time for it


def test_broken_files_are_named_when_they_are_met_if_images_are_streamed(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(tiny("training.steps=8").to_toml())
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "4.png").write_bytes(b"a shopping list")
    options = ["--out", str(tmp_path / "run"), "--config", str(tmp_path / "tiny.toml"), "--device", "cpu"]
    assert run(["train", str(tmp_path / "images"), "--no-cache", *options]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Skipped")]
    assert said == [f"Skipped 1 broken image(s): {(tmp_path / 'run' / 'skipped.txt').read_text().strip()}"]
    assert "4.png" in said[0]


def test_what_a_model_is_looked_at_with_is_of_all_classes() -> None:
    images = ImageSet(
        torch.arange(1000, dtype=torch.int64).view(-1, 1, 1, 1).to(torch.uint8), torch.arange(1000) // 100
    )
    pixels, labels = some(images, 256)
    assert labels is not None
    assert labels.bincount(minlength=10).min() > 10
    assert torch.equal(pixels, some(images, 256)[0])  # the same ones each time
    assert len(pixels.flatten()) == 256
    everything, _ = some(images, 5000)
    assert torch.equal(everything, images.images)
