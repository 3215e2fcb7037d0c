"""Training with classes: each image is told its own, a share of them is told none, and a run knows its labels again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.objectives import Objective, SquaredError
from clearwater.randomness import RowStreams, derived_seed, generator
from clearwater.times import TimeSampler, Uniform
from clearwater.training import Progress, RunFolder, Trainer, load_denoiser
from clearwater.training import trainer as trainer_module

CPU = torch.device("cpu")
CLASSES = 5
LABELLED = ("data.labels=true", f"data.classes={[f'class {i}' for i in range(CLASSES)]}")
Write = Callable[..., Config]


def _grey(n: int = 30, classes: int = CLASSES) -> ImageSet:
    """Image i is of one grey value, 8 i, and of a class that does not follow from its neighbours'."""
    values = 8 * torch.arange(n, dtype=torch.uint8)
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(n) % classes))
    names = tuple(f"class {i}" for i in range(classes))
    return ImageSet(values.reshape(n, 1, 1, 1).expand(n, 1, 8, 8).contiguous(), labels, names)


@dataclass
class Watched(Objective):
    """Notes which images came with which labels; the network, which is not asked, learns nothing."""

    times: TimeSampler = field(default_factory=Uniform)
    seen: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, generator: torch.Generator) -> Tensor:
        self.seen.append((x_0, denoiser.labels))
        return 0 * next(denoiser.network.parameters()).sum().expand(len(x_0))


def _watched(config: Config, data: ImageSet) -> Iterator[tuple[int, int]]:
    """(number of the image, label that it was told) for each image of each batch, in their order."""
    objective = Watched()
    list(Trainer(config, data, CPU, objective=objective))
    for x_0, labels in objective.seen:
        assert labels is not None
        assert labels.dtype == torch.int64
        numbers = ((x_0[:, 0, 0, 0] + 1) * 127.5 / 8).round().long()
        yield from zip(numbers.tolist(), labels.tolist(), strict=True)


@pytest.mark.parametrize("flip", ["false", "true"])
def test_each_image_is_told_its_own_class_over_many_epochs(tiny: Write, flip: str) -> None:
    # Batches of 7 of 30 images: most epochs end inside a batch.
    sets = ("training.label_dropout=0", "training.batch=7", "training.steps=20", f"data.flip={flip}")
    data = _grey()
    assert data.labels is not None
    told = list(_watched(tiny(*LABELLED, *sets), data))
    assert [label for _, label in told] == [int(data.labels[number]) for number, _ in told]
    counts = np.bincount([number for number, _ in told])
    assert (len(counts), counts.min(), counts.max()) == (30, 4, 5)  # 140 images of 30


def test_without_labels_the_network_is_told_nothing(tiny: Write) -> None:
    objective = Watched()
    list(Trainer(tiny(), _grey(), CPU, objective=objective))
    assert [labels for _, labels in objective.seen] == [None] * 8


def test_all_classes_are_withheld_if_that_is_the_share(tiny: Write) -> None:
    config = tiny(*LABELLED, "training.label_dropout=1", "training.steps=20")
    assert {label for _, label in _watched(config, _grey())} == {CLASSES}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_share_of_withheld_classes_is_the_one_that_is_set_everywhere_in_a_batch(tiny: Write, share: float) -> None:
    steps, batch = 240, 10
    config = tiny(*LABELLED, f"training.label_dropout={share}", f"training.steps={steps}", f"training.batch={batch}")
    data = _grey()
    assert data.labels is not None
    told = list(_watched(config, data))
    withheld = np.array([label == CLASSES for _, label in told]).reshape(steps, batch)
    for (number, label), gone in zip(told, withheld.flat, strict=True):
        assert gone or label == int(data.labels[number])

    def is_binomial(count: float, n: int) -> bool:
        return abs(count - n * share) < 5 * math.sqrt(n * share * (1 - share))

    assert is_binomial(withheld.sum(), steps * batch)
    # Each place in the batch, each image: and independently, so that a batch's count has the binomial's variance.
    assert all(is_binomial(place.sum(), steps) for place in withheld.T)
    of_image = withheld.ravel()[np.argsort([number for number, _ in told], kind="stable")].reshape(30, 80)
    assert all(is_binomial(image.sum(), 80) for image in of_image)
    variance = withheld.sum(1).var() / (batch * share * (1 - share))
    assert variance == pytest.approx(1, abs=5 * math.sqrt(2 / steps))


def test_which_classes_are_withheld_follows_from_the_seed(tiny: Write) -> None:
    def told(seed: int) -> list[tuple[int, int]]:
        sets = ("training.label_dropout=0.5", "training.batch=30", f"training.seed={seed}")
        return sorted(_watched(tiny(*LABELLED, *sets), _grey()))  # whole epochs, so the order has no part

    assert told(0) == told(0)
    assert told(0) != told(1)


def test_a_trained_network_makes_of_noise_the_image_of_the_class_that_it_is_told(tiny: Write, tmp_path: Path) -> None:
    """The class alone tells black from white at the last level: told none, the best guess is the mean of both."""
    data = ImageSet(
        (255 * (torch.arange(8) % 2)).to(torch.uint8).reshape(8, 1, 1, 1).expand(8, 1, 8, 8).contiguous(),
        torch.arange(8) % 2,
        ("black", "white"),
    )
    config = tiny(
        "objective=v",
        "data.labels=true",
        "data.classes=['black', 'white']",
        "model.dropout=0",
        "training.label_dropout=0.3",
        "training.batch=8",
        "training.steps=200",
        "training.learning_rate=4e-3",
    )
    folder = RunFolder.create(tmp_path, config)
    list(Trainer(config, data, CPU, folder))
    denoiser = load_denoiser(folder, "cpu")
    x_t = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = denoiser.chain.levels[denoiser.chain.T]

    def guess(labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            told = NetworkDenoiser(denoiser.network, denoiser.chain, denoiser.target, denoiser.variance, labels=labels)
            return told(x_t, t).x_0.mean((1, 2, 3))

    labels = torch.arange(32) % 2
    off = guess(labels) - (2.0 * labels - 1)
    assert float(off.abs().max()) < 0.3
    assert float(guess(None).abs().mean()) < 0.5
    assert torch.equal(guess(None), guess(torch.full((32,), 2)))


def _noisy() -> ImageSet:
    drawn = np.random.default_rng(1).integers(0, 256, (10, 1, 8, 8), np.uint8)
    return ImageSet(torch.from_numpy(drawn), torch.arange(10) % 2, ("a", "b"))


_SETS = (
    "data.labels=true",
    "data.classes=['a', 'b']",
    "data.flip=true",
    "model.dropout=0.1",
    "training.label_dropout=0.4",
)


def _trainer(config: Config, folder: Path, data: ImageSet | None = None) -> Trainer:
    return Trainer(config, _noisy() if data is None else data, CPU, RunFolder.create(folder, config))


def test_training_with_classes_that_was_interrupted_ends_with_the_same_bits(tiny: Write, tmp_path: Path) -> None:
    config = tiny(*_SETS)
    list(_trainer(config, tmp_path / "unbroken"))
    with patch.object(trainer_module, "_REPORT_SECONDS", 0.0):
        for stop in (1, 3, 6, None):
            trainer = _trainer(config, tmp_path / "broken")
            for event in trainer:
                if isinstance(event, Progress) and event.step == stop:
                    trainer.stop()
    unbroken, broken = (RunFolder.open(tmp_path / name).latest() for name in ("unbroken", "broken"))
    assert unbroken is not None
    assert broken is not None
    assert broken.place.step == 8
    for kind in ("network", "averaged", "optimizer"):
        ours, theirs = getattr(unbroken, kind), getattr(broken, kind)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    # The vectors of both classes and of none were learned.
    at_first = _trainer(config, tmp_path / "new").denoiser.network.get_parameter("label.weight").detach()
    assert bool((unbroken.network["label.weight"] - at_first).norm(dim=1).gt(1e-5).all())


@pytest.mark.parametrize("changed", [[0, 1, 0, 1, 0, 1, 0, 1, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0, 1, 0]])
def test_a_run_refuses_to_go_on_with_other_labels_of_the_same_images(
    tiny: Write, tmp_path: Path, changed: list[int]
) -> None:
    config, data = tiny(*_SETS, "training.steps=2"), _noisy()
    list(_trainer(config, tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"not those that this run was trained on"):
        _trainer(config, tmp_path, ImageSet(data.images, torch.tensor(changed), data.classes))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert _trainer(config, tmp_path).step == 2  # with its own it does


def test_a_run_with_other_names_of_the_classes_is_another_run(tiny: Write, tmp_path: Path) -> None:
    list(_trainer(tiny(*_SETS, "training.steps=2"), tmp_path))
    with pytest.raises(InputError, match=r"other settings.*data\.classes"):
        RunFolder.create(tmp_path, tiny(*_SETS, "training.steps=2", "data.classes=['a', 'c']"))


def test_a_run_without_labels_does_not_mind_other_ones(tiny: Write, tmp_path: Path) -> None:
    config, data = tiny("training.steps=2"), _noisy()
    list(_trainer(config, tmp_path))
    assert _trainer(config, tmp_path, ImageSet(data.images)).step == 2
    assert data.labels is not None
    assert _trainer(config, tmp_path, ImageSet(data.images, 1 - data.labels, data.classes)).step == 2


def test_the_loss_of_a_step_is_that_of_the_network_told_the_labels(tiny: Write) -> None:
    """Against one step by hand: the same images, levels and noise, and the labels beside them."""
    objective, seen = SquaredError(), Watched()
    config = tiny(*LABELLED, "model.dropout=0", "training.label_dropout=0.4", "training.steps=1", "training.clip=1e9")
    list(Trainer(config, _grey(), CPU, objective=seen))
    ((x_0, labels),) = seen.seen
    trainer = Trainer(config, _grey(), CPU, objective=objective)
    network = trainer.denoiser.network
    weights = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a new network's zeros hide what it is told
        for parameter in network.parameters():
            parameter.normal_(std=0.2, generator=weights)
        network.get_parameter("label.weight").mul_(20)
    own = trainer.denoiser
    seed = config.training.seed
    k, _ = objective.times(len(x_0), own.chain.T, generator(seed, "objective", 0))

    def noise() -> RowStreams:
        return RowStreams(derived_seed(seed, "noise", 0), range(len(x_0)))

    told, untold = (
        float(objective.at(denoiser, x_0, k, noise()).mean().detach())
        for denoiser in (NetworkDenoiser(network, own.chain, own.target, own.variance, labels=labels), own)
    )
    with patch.object(trainer_module, "_REPORT_SECONDS", 0.0):
        progress = next(iter(trainer))
    assert isinstance(progress, Progress)
    assert progress.loss == pytest.approx(told, rel=1e-5)
    assert abs(untold - told) > 1e-3 * told
