"""All figures in one form: each is what its own function says, and so is its floor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clearwater.data import ImageSet
from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.extrapolation import frechet_at_infinity
from clearwater.evaluation.fidelity import Moments, frechet_estimate
from clearwater.evaluation.figures import FIGURES, MAKERS, Figure
from clearwater.evaluation.kernel import kernel_distance
from clearwater.evaluation.manifold import manifold
from clearwater.evaluation.material import Material
from clearwater.evaluation.measurement import Compared, measured
from clearwater.evaluation.memorisation import copying_score, nearest_training
from clearwater.evaluation.pixels import PixelRows
from clearwater.evaluation.scores import class_balance, inception_score
from clearwater.evaluation.sliced import sliced_wasserstein


def _material(seed: int, n: int, width: float = 1.0, *, images: bool = True, classes: bool = True) -> Material:
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.standard_normal((n, 6)) * width).float()
    pixels = torch.from_numpy(rng.integers(256, size=(n, 1, 2, 2)).astype(np.uint8))
    return Material(
        features,
        (2 * features[:, :3]).softmax(1) if classes else None,
        pixels if images else None,
    )


def _by_name(found: tuple[Compared, ...]) -> dict[str, Compared]:
    return {each.figure.name: each for each in found}


_ALONE: dict[str, Callable[[Material, Material], Estimate]] = {
    "frechet_distance": lambda a, b: frechet_estimate(a.features, b.features),
    "frechet_distance_at_infinity": lambda a, b: frechet_at_infinity(a.features, Moments.of(b.features)).estimate,
    "kernel_distance": lambda a, b: kernel_distance(a.features, b.features),
    "precision": lambda a, b: manifold(a.features, b.features).precision,
    "recall": lambda a, b: manifold(a.features, b.features).recall,
    "density": lambda a, b: manifold(a.features, b.features).density,
    "coverage": lambda a, b: manifold(a.features, b.features).coverage,
    "inception_score": lambda a, b: inception_score(a.probabilities),
    "class_balance": lambda a, b: class_balance(a.probabilities.argmax(1), b.probabilities.argmax(1), 3).apart,
    "sliced_wasserstein": lambda a, b: sliced_wasserstein(a.images, b.images),
}


def _same(figure: Figure, expected: Estimate) -> bool:
    return (figure.value, figure.error, figure.interval) == (expected.value, expected.error, expected.interval)


def test_each_figure_and_each_floor_is_what_its_own_function_says() -> None:
    samples, data, held_out = _material(0, 80, 0.8), _material(1, 100), _material(2, 80)
    told: list[float] = []
    found = measured(samples, data, held_out, features="the name", report=told.append)
    assert [each.figure.name for each in found.figures] == list(FIGURES)
    assert found.left_out == {}
    assert told == sorted(told)
    assert told[-1] == 1
    of = _by_name(found.figures)
    for name, alone in _ALONE.items():
        assert _same(of[name].figure, alone(samples, data)), name
        floor = of[name].floor
        assert floor is not None
        assert _same(floor, alone(held_out, data)), name
        assert of[name].at_floor is None  # there are as many of both
        for figure in (of[name].figure, floor):
            assert (figure.name, figure.n, figure.of, figure.better) == (name, 80, 100, FIGURES[name])
            assert figure.features == ("pixels" if name == "sliced_wasserstein" else "the name")


def test_of_fewer_held_out_images_the_figure_of_as_many_samples_stands_beside_the_floor() -> None:
    samples, data, held_out = _material(0, 90, 0.8), _material(1, 100), _material(2, 40)
    of = _by_name(measured(samples, data, held_out, features="f").figures)
    fewer = samples.drawn(40, 0)
    for name, alone in _ALONE.items():
        floor, at_floor = of[name].floor, of[name].at_floor
        assert floor is not None
        assert at_floor is not None
        assert (of[name].figure.n, floor.n, at_floor.n) == (90, 40, 40)
        assert _same(floor, alone(held_out, data)), name
        assert at_floor.value == pytest.approx(alone(fewer, data).value, rel=1e-12), name
    rows = samples.features.tolist()
    places = [rows.index(row) for row in fewer.features.tolist()]
    assert places == sorted(set(places))  # different ones, in the order of the file that they may be read from
    assert places != list(range(40))


def test_of_more_held_out_images_as_many_as_there_are_samples_are_drawn() -> None:
    samples, data, held_out = _material(0, 30), _material(1, 100), _material(2, 70)
    of = _by_name(measured(samples, data, held_out, features="f").figures)
    floor = of["kernel_distance"].floor
    assert floor is not None
    assert floor.n == 30
    assert _same(floor, kernel_distance(held_out.drawn(30, 0).features, data.features))


def test_copies_are_told_from_new_samples_beside_the_floor() -> None:
    rng = np.random.default_rng(0)
    data, held_out, new = _material(1, 300), _material(2, 200), _material(3, 200)
    assert isinstance(data.images, torch.Tensor)
    noise = torch.from_numpy(rng.standard_normal((200, 6))).float()
    shade = torch.from_numpy(rng.integers(-2, 3, (200, 1, 2, 2)))
    copies = Material(
        data.features[:200] + 0.01 * noise, images=(data.images[:200] + shade).clamp(0, 255).to(torch.uint8)
    )
    expected = {
        "closer_than_held_out": 0.5,
        "copying_score": 0.0,
        "copies": 1 / 101,
        "copying_score_in_pixels": 0.0,
        "copies_in_pixels": 1 / 101,
    }
    caught, free = (_by_name(measured(of, data, held_out, features="f", only=expected).figures) for of in (copies, new))
    for pixels in ("", "_in_pixels"):
        assert caught[f"copying_score{pixels}"].figure.value < -10
        assert caught[f"copies{pixels}"].figure.value > 0.7
        assert abs(free[f"copying_score{pixels}"].figure.value) < 4
        assert free[f"copies{pixels}"].figure.value < 0.1
    assert caught["closer_than_held_out"].figure.value > 0.95
    for name, by_chance in expected.items():
        floor = caught[name].floor
        assert floor is not None
        assert (floor.n, floor.of) == (100, 100)  # one half of the held-out images against the other
        assert (caught[name].figure.n, caught[name].figure.of) == (200, 200)
        assert caught[name].figure.features == ("pixels" if "pixels" in name else "f")
        assert floor.interval[0] <= by_chance <= floor.interval[1]
    ours, theirs = (nearest_training(of.features, data.features) for of in (copies, held_out))
    assert _same(caught["copying_score"].figure, copying_score(ours, theirs))
    rows = [nearest_training(PixelRows(of.images), PixelRows(data.images), relative_to=2) for of in (copies, held_out)]
    assert _same(caught["copying_score_in_pixels"].figure, copying_score(*rows))


def test_of_many_images_some_are_compared_in_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["copying_score_in_pixels", "copies_in_pixels"]
    maker = MAKERS[-1]
    assert list(maker.names) == names
    monkeypatch.setattr("clearwater.evaluation.measurement.MAKERS", (*MAKERS[:-1], replace(maker, most=20)))
    found = measured(_material(0, 50), _material(1, 90), _material(2, 40), features="f", only=names)
    for each in found.figures:
        assert (each.figure.n, each.figure.of) == (20, 20)


def test_what_cannot_be_made_is_left_out_with_its_reason_or_refused_if_asked_for() -> None:
    samples, data = (_material(seed, 13, images=False, classes=False) for seed in (0, 1))
    found = measured(samples, data, features="f")
    assert [each.figure.name for each in found.figures] == [
        "frechet_distance",
        "kernel_distance",
        "precision",
        "recall",
        "density",
        "coverage",
    ]
    assert all(each.floor is None for each in found.figures)
    assert set(found.left_out) == set(FIGURES) - {each.figure.name for each in found.figures}
    assert "at least 14 images" in found.left_out["frechet_distance_at_infinity"]
    assert "no classes" in found.left_out["inception_score"]
    assert "no images" in found.left_out["sliced_wasserstein"]
    assert "not trained on" in found.left_out["copies_in_pixels"]
    for name, reason in found.left_out.items():
        with pytest.raises(InputError) as caught:
            measured(samples, data, features="f", only=[name])
        assert str(caught.value) == reason
    with pytest.raises(InputError, match="no figure 'fid': there are frechet_distance, "):
        measured(samples, data, features="f", only=["fid"])


def test_a_floor_of_too_few_images_is_left_out_and_the_figure_is_not() -> None:
    of = _by_name(measured(_material(0, 60), _material(1, 60), _material(2, 5), features="f").figures)
    assert of["frechet_distance"].floor is not None
    assert of["precision"].floor is None  # five images have no fifth neighbour
    assert of["precision"].at_floor is None
    assert of["precision"].figure.n == 60


def test_labels_serve_where_there_are_no_probabilities() -> None:
    def labelled(seed: int, labels: list[int]) -> Material:
        features = _material(seed, len(labels)).features
        return Material(features, labels=torch.tensor(labels))

    (balance,) = measured(
        labelled(0, [0, 0, 0, 2]), labelled(1, [0, 1, 2, 3, 4]), features="f", only=["class_balance"]
    ).figures
    assert balance.figure.value == pytest.approx(0.75 - 0.2 + 0.25 - 0.2)


def test_a_figure_is_one_object_of_json() -> None:
    found = measured(_material(0, 40), _material(1, 50), _material(2, 20), features="f", only=["kernel_distance"])
    (read,) = json.loads(json.dumps([each.as_dict() for each in found.figures]))
    figure, floor, at_floor = found.figures[0].figure, found.figures[0].floor, found.figures[0].at_floor
    assert floor is not None
    assert at_floor is not None
    assert (read["value"], read["n"], read["features"]) == (figure.value, 40, "f")
    assert read["interval"] == list(figure.interval)
    assert (read["floor"]["value"], read["floor"]["n"]) == (floor.value, 20)
    assert (read["at_floor"]["value"], read["at_floor"]["n"]) == (at_floor.value, 20)


def test_mapped_features_and_images_by_number_give_the_same_figures(tmp_path: Path) -> None:
    samples, data, held_out = _material(0, 60), _material(1, 70), _material(2, 40)
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=(60, 6))
    mapped[:] = samples.features.numpy()
    assert isinstance(samples.images, torch.Tensor)
    same = Material(torch.from_numpy(mapped), samples.probabilities, ImageSet(samples.images))
    assert measured(same, data, held_out, features="f") == measured(samples, data, held_out, features="f")


def test_material_of_different_images_and_broken_features_are_refused() -> None:
    a, b = _material(0, 10), _material(1, 12)
    with pytest.raises(InputError, match="features of 10 images, but images of 12"):
        Material(a.features, a.probabilities, b.images)
    broken = a.features.clone()
    broken[7, 0] = torch.nan
    for of, whose in (((Material(broken), b, a), "samples"), ((a, b, Material(broken)), "held-out images")):
        with pytest.raises(InputError, match=f"Image 7 of the {whose}"):
            measured(*of, features="f")
    with pytest.raises(InputError, match="5 features of the held-out images and 6 of the data"):
        measured(a, b, Material(a.features[:, :5]), features="f")
