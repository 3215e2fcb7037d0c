"""`clearwater bound`: the figures are the library's, of what was asked for."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearwater import Clipped, FixedLarge, NetworkDenoiser, bound, load_denoiser, load_images
from clearwater.bound_estimate import estimate_bound
from clearwater.cli import run
from clearwater.decoders import DensityDecoder
from clearwater.evaluation.report_words import beyond_pixels
from clearwater.evaluation.results import results
from clearwater.evaluation.unseen import some
from clearwater.likelihood import prior_term
from clearwater.ode_likelihood import flow_likelihood

HELD_OUT = load_images("fashion-mini", split="held_out")
PIXELS = HELD_OUT.images.double() / 127.5 - 1


def chosen(n: int) -> torch.Tensor:
    """The images that --n takes, in [-1, 1]."""
    return some(HELD_OUT, n)[0].double() / 127.5 - 1


def measured(trained: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """The object that --json prints, alone on standard output."""
    capsys.readouterr()
    assert run(["bound", str(trained), "fashion-mini", "--device", "cpu", "--json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def denoiser(trained: Path) -> NetworkDenoiser:
    return load_denoiser(trained, "cpu")


def test_the_json_is_the_exact_bound_of_the_library(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(trained, capsys, "--n", "20", "--batch", "7", "--seed", "5")
    expected = bound(Clipped(denoiser(trained)), chosen(20), seed=5, batch=7)
    assert found["total"] == pytest.approx(expected.total, rel=1e-9)
    assert found["prior"] == pytest.approx(float(expected.prior.mean()), rel=1e-9)
    assert found["rate"] == pytest.approx(float(expected.rate.mean()), rel=1e-9)
    assert found["decoder"] == pytest.approx(float(expected.decoder.mean()), rel=1e-9)
    assert found["kl"] == pytest.approx(expected.kl.tolist(), rel=1e-9)
    assert found["stderr"] == pytest.approx(expected.stderr, rel=1e-9)
    assert found["total"] == pytest.approx(found["prior"] + found["rate"] + found["decoder"], rel=1e-12)
    told = {name: found[name] for name in ("weights", "variance", "levels", "clipped", "images", "evaluations")}
    assert told == {
        "weights": "ema",
        "variance": "fixed_large" if isinstance(denoiser(trained).variance, FixedLarge) else "fixed_small",
        "levels": 10,
        "clipped": True,
        "images": 20,
        "evaluations": 200,
    }


def test_what_was_asked_for_is_what_was_evaluated(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--n", "6", "--levels", "4", "--variance", "fixed_large", "--no-clip", "--decoder", "density"]
    found = measured(trained, capsys, *options, "--weights", "raw")
    raw = load_denoiser(trained, "cpu", variance="fixed_large", weights="raw")
    expected = bound(raw, chosen(6), chain=raw.chain.strided(4), decoder=DensityDecoder(), batch=250)
    assert found["total"] == pytest.approx(expected.total, rel=1e-9)
    assert (found["weights"], found["variance"], found["levels"]) == ("raw", "fixed_large", 4)
    assert (found["clipped"], found["decoder_kind"]) == (False, "density")
    assert len(found["kl"]) == 3


@pytest.mark.parametrize("kind", [[], ["--ode", "--tolerance", "1e-2"]])
def test_each_image_has_its_own_figure_if_asked(
    trained: Path, capsys: pytest.CaptureFixture[str], kind: list[str]
) -> None:
    found = measured(trained, capsys, "--n", "3", "--per-image", *kind)
    assert len(set(found["per_image"])) == 3
    assert sum(found["per_image"]) / 3 == pytest.approx(found["total"], rel=1e-12)


def test_a_budget_gives_the_librarys_estimate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(trained, capsys, "--n", "8", "--budget", "60")
    expected = estimate_bound(Clipped(denoiser(trained)), chosen(8), 60, batch=250)
    assert (found["total"], found["stderr"]) == pytest.approx((expected.total, expected.stderr), rel=1e-9)
    assert found["evaluations"] == expected.evaluations <= 60


def test_the_ode_gives_the_librarys_likelihood(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(trained, capsys, "--n", "3", "--ode", "--tolerance", "1e-3", "--seed", "2")
    expected = flow_likelihood(Clipped(denoiser(trained)), chosen(3), tolerance=1e-3, seed=2, batch=50)
    assert found["total"] == pytest.approx(expected.total, rel=1e-6)
    assert found["stderr_population"] == pytest.approx(expected.stderr_of_population, rel=1e-5)
    assert found["evaluations"] == expected.evaluations
    assert (found["trace"], found["tolerance"], found["images"]) == ("hutchinson", 1e-3, 3)


def test_the_prior_term_of_the_built_in_images_is_the_hand_formula(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = denoiser(trained).chain
    alpha_bar, square = float(chain.alpha_bar[-1]), float(PIXELS.square().mean())
    by_hand = 0.5 * (alpha_bar * square - alpha_bar - math.log1p(-alpha_bar)) / math.log(2)
    found = measured(trained, capsys, "--levels", "2")
    assert found["prior"] == pytest.approx(by_hand, rel=1e-9)
    assert found["images"] == 1000


def test_the_prior_term_of_the_linear_chain_on_the_built_in_images() -> None:
    """MATH's anchor for ½(ᾱ E[x²] - ᾱ - log(1 - ᾱ)), with the images' own E[x²] in place of 0.25."""
    from clearwater.chains import linear

    alpha_bar, square = 4.035829765e-5, float(PIXELS.square().mean())
    by_hand = 0.5 * (alpha_bar * square - alpha_bar - math.log1p(-alpha_bar)) / math.log(2)
    found = float(prior_term(PIXELS, linear()).mean()) / (784 * math.log(2))
    assert found == pytest.approx(by_hand, rel=1e-7)
    assert 5e-6 < found < 5e-5  # the paper's "about 1e-5 bits per dimension"


def test_the_table_says_what_was_evaluated_and_adds_up(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(trained, capsys, "--n", "4")
    assert run(["bound", str(trained), "fashion-mini", "--device", "cpu", "--n", "4"]) == 0
    out = capsys.readouterr().out
    for name in ("prior", "rate", "decoder", "total"):
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        assert f"{found[name]:.6f} bits/dim" in line
    assert "weights: ema" in out
    assert "levels: 10" in out
    assert f"{found['evaluations']:,} network evaluations" in out


def test_the_plot_is_a_picture(trained: Path, tmp_path: Path) -> None:
    options = ["--n", "4", "--plot", str(tmp_path / "kl.png")]
    assert run(["bound", str(trained), "fashion-mini", "--device", "cpu", *options]) == 0
    with Image.open(tmp_path / "kl.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**7) or []) > 20


def test_images_of_a_folder_are_measured_as_the_run_sees_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, image in enumerate(some(HELD_OUT, 3)[0][:, 0]):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i}.png")
    capsys.readouterr()
    assert run(["bound", str(trained), str(tmp_path), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = measured(trained, capsys, "--n", "3")
    assert found["total"] == pytest.approx(expected["total"], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ode", "--levels", "5"], "no levels"),
        (["--ode", "--variance", "fixed_small"], "no levels"),
        (["--ode", "--budget", "100"], "no levels"),
        (["--levels", "11"], "from 1 to 10"),
        (["--levels", "1"], "at least 2 steps"),
        (["--budget", "3"], "too small"),
        (["--plot", "kl.gif"], ".png"),
        (["--per-image"], "--json"),
        (["--variance", "learned_range"], "no channels for a learned range"),
        (["--variance", "network"], "variance network"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(
    trained: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(["bound", str(trained), "fashion-mini", "--device", "cpu", "--n", "4", *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: ")
    assert words in error


def test_one_image_has_no_standard_error(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = torch.zeros(28, 28, dtype=torch.uint8)
    Image.fromarray(image.numpy()).save(tmp_path / "a.png")
    assert run(["bound", str(trained), str(tmp_path), "--device", "cpu"]) == 2
    assert "at least two" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [("--levels", "6"), ("--budget", "100"), ("--ode", "--tolerance", "0.05")], ids=["all", "budget", "ode"]
)
def test_the_figures_of_each_image_do_not_depend_on_the_processes(
    trained: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """By two processes, each of which takes half of the images; the ODE's solver sees batches of as many."""
    batch = ("--batch", "4") if "--ode" in options else ()
    arguments = ["bound", str(trained), "fashion-mini", "-n", "8", "--json", "--per-image", "--device", "cpu", *options]
    capsys.readouterr()
    assert run([*arguments, *batch]) == 0
    alone = json.loads(capsys.readouterr().out)
    launched = ["--standalone", "--nproc-per-node", "2", "-m", "clearwater", *arguments, *batch]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launched], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together.keys() == alone.keys()
    np.testing.assert_allclose(together["per_image"], alone["per_image"], rtol=1e-5)
    assert together["total"] == pytest.approx(alone["total"], rel=1e-6)
    assert together["evaluations"] == alone["evaluations"]


@pytest.mark.parametrize("kind", [["--levels", "5"], ["--ode", "--tolerance", "1e-2"]])
def test_what_is_found_is_kept_with_the_run_and_the_command_finds_it_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: list[str]
) -> None:
    of_run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(of_run / "measured", ignore_errors=True)
    found = measured(of_run, capsys, "--n", "3", "--per-image", *kind)
    (kept,) = results(of_run, "bound")
    assert (kept.kind, kept.step) == ("bound", 8)
    assert {**kept.found, "per_image": found["per_image"]} == found
    assert (found["data"], found["split"]) == ("fashion-mini", "held_out")
    assert run([*kept.command, "--json"]) == 0  # without the figures of each image
    assert json.loads(capsys.readouterr().out) == kept.found
    assert len(results(of_run, "bound")) == 1
    assert run(["bound", str(of_run), str(_two_others(tmp_path)), "--n", "2", *kind]) == 0
    assert [each.found["split"] for each in results(of_run, "bound")] == ["other", "held_out"]


def _two_others(folder: Path) -> Path:
    images = folder / "others"
    images.mkdir()
    for i in range(2):
        Image.fromarray(np.full((28, 28), 90 * i, np.uint8)).save(images / f"{i}.png")
    return images


def test_a_bound_above_that_of_the_pixels_is_not_taken_for_one(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    assert run(["bound", str(trained), str(tmp_path), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "A bound above 8 bits/dim is more than the pixels take" in said
    assert "--variance optimal gives the lowest" in said
    assert beyond_pixels(8.0, optimal=False) is None
    assert "--variance" not in (beyond_pixels(8.1, optimal=True) or "--variance")


def test_the_images_of_the_optimal_variance_are_kept_where_the_others_are(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "run", tmp_path / "run", ignore=shutil.ignore_patterns("optimal-variance*"))
    monkeypatch.setenv("CLEARWATER_CACHE", str(tmp_path / "usual"))
    options = ["--variance", "optimal", "--n", "2", "--levels", "2", "--device", "cpu"]
    command = ["bound", str(tmp_path / "run"), str(home / "images"), *options]
    assert run([*command, "--cache", str(tmp_path / "here")]) == 0
    assert not (tmp_path / "usual").exists()
    assert (tmp_path / "here").is_dir()
