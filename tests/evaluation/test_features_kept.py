"""What is kept of a set of images: known by its content, whole or made again, gone on with where it stopped."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from told import Told, check_told, save_pictures, some_images, told_of

from clearwater.data import ImageSet, load_images
from clearwater.errors import InputError
from clearwater.evaluation import features_of


def _files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*/*"))


def _seen_again(images: ImageSet, cache: Path, **named: object) -> int:
    """How many images are seen by another extractor of the same key."""
    extractor = Told(**named)  # type: ignore[arg-type]
    check_told(features_of(images, extractor, cache=cache), images)
    return sum(extractor.sizes)


def test_what_was_seen_once_is_not_seen_again(tmp_path: Path) -> None:
    assert [_seen_again(some_images(10), tmp_path) for _ in range(3)] == [10, 0, 0]
    assert _seen_again(some_images(10), tmp_path, batch=3) == 0  # the key says what is seen, not how many at once
    assert _files(tmp_path) == ["index.json", "lock", "rows.npy"]
    (rows,) = tmp_path.glob("*/rows.npy")
    np.testing.assert_allclose(np.load(rows), np.concatenate(told_of(some_images(10)), 1), rtol=1e-6)


def test_another_process_finds_it_and_cannot_write_to_it(tmp_path: Path) -> None:
    assert _seen_again(some_images(10), tmp_path) == 10
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from pathlib import Path
from told import Told, check_told, some_images
from clearwater.evaluation import features_of
extractor = Told()
seen = features_of(some_images(10), extractor, cache=Path({str(tmp_path)!r}))
check_told(seen, some_images(10))
assert extractor.sizes == []
print("found", flush=True)
seen.features[0] = 1
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "found\n"
    assert done.returncode < 0  # by a signal
    assert _seen_again(some_images(10), tmp_path) == 0


def test_other_content_another_selection_and_another_extractor_are_seen(tmp_path: Path) -> None:
    images, cache = some_images(10), tmp_path
    assert _seen_again(images, cache) == 10
    other = images.images.clone()
    other[9, 0, 2, 4] ^= 1
    assert _seen_again(ImageSet(other), cache) == 10
    assert _seen_again(ImageSet(images.images.flip(0)), cache) == 10
    assert _seen_again(images, cache, key="other weights") == 10
    extractor = Told()
    for rows, seen in (([0, 1], 2), ([1, 0], 4), ([0, 1], 4)):
        features_of(images, extractor, rows=torch.tensor(rows), cache=cache)
        assert sum(extractor.sizes) == seen
    assert _seen_again(images, cache) == 0


def test_touched_and_renamed_files_of_the_same_content_are_known_again(tmp_path: Path) -> None:
    images, decoded = some_images(9), tmp_path / "decoded"
    save_pictures(tmp_path / "a", images)
    assert _seen_again(load_images(tmp_path / "a", size=(3, 5), cache=decoded), tmp_path / "features") == 9
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (1, 1))
    assert _seen_again(load_images(tmp_path / "a", size=(3, 5), cache=decoded), tmp_path / "features") == 0
    (tmp_path / "a").rename(tmp_path / "b")
    assert _seen_again(load_images(tmp_path / "b", size=(3, 5)), tmp_path / "features") == 0
    np.save(tmp_path / "c.npy", images.images.numpy())
    assert _seen_again(load_images(tmp_path / "c.npy"), tmp_path / "features") == 0


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("rows.npy", _cut, "not all there"),
        ("rows.npy", _flip, "its rows are damaged"),
        ("index.json", _cut, "its index is damaged"),
        ("index.json", _flip, "its index is damaged"),
        ("index.json", Path.unlink, None),
        ("rows.npy", Path.unlink, None),
    ],
)
def test_a_damaged_entry_is_made_again_with_a_word(tmp_path: Path, name: str, damage: object, said: str | None) -> None:
    assert _seen_again(some_images(10), tmp_path) == 10
    (path,) = tmp_path.glob(f"*/{name}")
    damage(path)  # type: ignore[operator]
    words: list[str] = []
    extractor = Told()
    check_told(features_of(some_images(10), extractor, cache=tmp_path, warn=words.append), some_images(10))
    assert sum(extractor.sizes) == 10
    assert len(words) == (said is not None)
    if said is not None:
        assert said in words[0]
        assert words[0].endswith("they are made again.")
    assert _seen_again(some_images(10), tmp_path) == 0


def test_what_was_interrupted_goes_on_after_its_last_batch(tmp_path: Path) -> None:
    for stops_at, batches in ((2, [4, 4]), (1, [4]), (None, [4, 2])):
        extractor = Told(stops_at=stops_at)
        try:
            check_told(features_of(some_images(18), extractor, cache=tmp_path), some_images(18))
        except KeyboardInterrupt:
            assert _files(tmp_path) == ["part-0.jsonl", "part-0.npy"]
        assert extractor.sizes == batches
    assert _files(tmp_path) == ["index.json", "lock", "rows.npy"]


@pytest.mark.parametrize(
    ("name", "damage", "left"),
    [
        ("part-0.npy", _cut, 12),
        ("part-0.npy", _flip, 12),
        ("part-0.jsonl", _cut, 12),
        ("part-0.jsonl", Path.unlink, 16),
    ],
)
def test_of_an_interrupted_one_only_what_is_whole_is_kept(tmp_path: Path, name: str, damage: object, left: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        features_of(some_images(16), Told(stops_at=2), cache=tmp_path)
    (path,) = tmp_path.glob(f"*/{name}")
    damage(path)  # type: ignore[operator]
    assert _seen_again(some_images(16), tmp_path) == left


def test_two_that_make_the_same_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        features_of(some_images(16), Told(stops_at=2), cache=tmp_path)
    (part,) = tmp_path.glob("*/part-0.npy")
    with part.open("rb") as other:  # as another process that writes there
        fcntl.flock(other, fcntl.LOCK_EX)
        content = part.read_bytes()
        assert _seen_again(some_images(16), tmp_path) == 16
        assert part.read_bytes() == content
    assert _seen_again(some_images(16), tmp_path) == 0


def test_a_folder_that_cannot_be_used_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot keep features.*--no-cache"):
        features_of(some_images(4), Told(), cache=tmp_path / "file")


def test_too_little_room_is_told_of_before_anything_is_seen(tmp_path: Path) -> None:
    extractor = Told(dimensions=2**48)
    with pytest.raises(InputError, match=r"need [\d,]+ MB more .* make room"):
        features_of(some_images(4), extractor, cache=tmp_path)
    assert extractor.sizes == []
