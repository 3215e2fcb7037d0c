"""What is seen of a set of images: a row for each, by itself, however many processes share the work."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from told import Told, check_told, save_pictures, some_images, told_of
from torch import Tensor

from clearwater.data import ImageSet, stream_images
from clearwater.errors import InputError
from clearwater.evaluation import Seen, features_of


@pytest.fixture(params=[True, False], ids=["kept", "held"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "cache" / "features" if request.param else None


@pytest.mark.parametrize("n", [1, 4, 10])
@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_every_image_has_its_row_whatever_the_batch(cache: Path | None, n: int, batch: int) -> None:
    extractor = Told(batch=batch)
    check_told(features_of(some_images(n), extractor, cache=cache), some_images(n))
    assert extractor.sizes == [batch] * (n // batch) + [n % batch] * (n % batch > 0)  # never more are in memory


def test_the_rows_that_are_asked_for_are_given_in_their_order(cache: Path | None) -> None:
    images, rows = some_images(10), torch.tensor([7, 0, 3, 3, 9])
    check_told(features_of(images, Told(), rows=rows, cache=cache), ImageSet(images.images[rows]))


def test_an_extractor_without_classes_gives_no_probabilities(cache: Path | None) -> None:
    class Plain(Told):
        def __call__(self, images: Tensor) -> Seen:
            return Seen(super().__call__(images).features)

    seen = features_of(some_images(5), Plain(classes=0), cache=cache)
    assert seen.probabilities is None
    np.testing.assert_allclose(seen.features, told_of(some_images(5))[0], rtol=1e-6)


def test_images_that_are_decoded_when_needed_are_seen_too(cache: Path | None, tmp_path: Path) -> None:
    images = some_images(9)
    save_pictures(tmp_path / "pictures", images)
    check_told(features_of(stream_images(tmp_path / "pictures", size=(3, 5)), Told(), cache=cache), images)


def test_progress_is_told_and_ends_at_one(cache: Path | None) -> None:
    told: list[float] = []
    features_of(some_images(10), Told(), cache=cache, report=told.append)
    assert told == [0.4, 0.8, 1.0, 1.0]


def test_no_images_are_refused(cache: Path | None) -> None:
    for images, rows in ((some_images(0), None), (some_images(3), torch.tensor([], dtype=torch.int64))):
        with pytest.raises(InputError, match="no images"):
            features_of(images, Told(), rows=rows, cache=cache)


# --- many processes

_PROGRAM = """
import json, os, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
import torch
from clearwater.evaluation import features_of
from clearwater.world import world
from told import Told, check_told, some_images

second = os.fork()
os.environ["RANK"] = "0" if second else "1"
os.environ["LOCAL_RANK"] = os.environ["RANK"]
saw = []
with world() as processes:
    disks = [Path("shared"), Path(f"own-{processes.rank}")]
    for cache, local_rank, stops_at in ((None, None, None), (disks[0], None, 1), (disks[0], None, None),
                                        (disks[0], None, None), (disks[1], "0", None), (disks[1], "0", None)):
        os.environ["LOCAL_RANK"] = local_rank or os.environ["RANK"]
        extractor = Told(stops_at=stops_at)
        try:
            check_told(features_of(some_images(19), extractor, cache=cache, world=processes), some_images(19))
        except KeyboardInterrupt:
            saw.append("interrupted")
        saw.append(sum(extractor.sizes))
Path(f"{os.environ['RANK']}.json").write_text(json.dumps(saw))
if second:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
"""


def test_processes_share_the_work_and_all_get_the_result(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(Path(__file__).parents[1])],
        cwd=tmp_path,
        env=environment,
        timeout=120,
        check=True,
    )
    saw = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    # Of 19 images the rounds are 4 + 4, 4 + 4, and 3 + 0. Held in memory; interrupted after one round, gone on with,
    # found; then each on a disk of its own, made and found.
    assert saw[0] == [11, "interrupted", 4, 7, 0, 11, 0]
    assert saw[1] == [8, "interrupted", 4, 4, 0, 8, 0]
