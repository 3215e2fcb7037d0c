"""What else may happen to a run between two commands: other images, another end, later checkpoints that are torn."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import InputError
from clearwater.training import RunFolder, Stopped, Trainer

CPU = torch.device("cpu")


@pytest.fixture
def data() -> ImageSet:
    return ImageSet(torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def _trained(config: Config, data: ImageSet, folder: Path) -> Stopped:
    *_, last = Trainer(config, data, CPU, RunFolder.create(folder, config))
    assert isinstance(last, Stopped)
    return last


def test_a_run_is_not_gone_on_with_on_other_images(tiny: Callable[..., Config], data: ImageSet, tmp_path: Path) -> None:
    _trained(tiny("training.steps=3"), data, tmp_path)
    one_pixel = data.images.clone()
    one_pixel[5, 0, 7, 7] ^= 1
    for other in (one_pixel, data.images[:5], data.images.flip(0)):
        with pytest.raises(InputError, match="not those that this run was trained on"):
            _trained(tiny("training.steps=3"), replace(data, stored=other), tmp_path)


def test_a_run_can_go_on_to_a_later_end_and_remembers_it(
    tiny: Callable[..., Config], data: ImageSet, tmp_path: Path
) -> None:
    constant = "training.anneal=constant"  # so that the longer run is the unbroken one, bit for bit
    _trained(tiny("training.steps=3", constant), data, tmp_path / "broken")
    assert _trained(tiny("training.steps=7", constant), data, tmp_path / "broken").step == 7
    _trained(tiny("training.steps=7", constant), data, tmp_path / "unbroken")
    assert RunFolder.open(tmp_path / "broken").config().training.steps == 7
    ours, theirs = (RunFolder.open(tmp_path / name).model()[0] for name in ("broken", "unbroken"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_new_checkpoint_survives_torn_ones_of_later_steps(
    tiny: Callable[..., Config], data: ImageSet, tmp_path: Path
) -> None:
    config = tiny("training.steps=3")
    _trained(config, data, tmp_path)
    for later in ("000000020", "000000030"):
        shutil.copytree(tmp_path / "checkpoints/000000003", tmp_path / "checkpoints" / later)
        (tmp_path / "checkpoints" / later / "state.json").write_text("{")
    longer = tiny("training.steps=5")
    _trained(longer, data, tmp_path)
    assert RunFolder.open(tmp_path).model()[1].step == 5
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["000000003", "000000005"]
