"""`clearwater train --from`: a run that starts from another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainings import interrupt_after, same, weights_of

from clearwater.training import planning

Said = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("every_step")
def test_a_run_goes_on_although_the_one_it_started_from_is_gone(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    first = ("--from", str(tmp_path / "first"), "--seed", "1")
    assert train("first") == 0
    assert train("whole", *first) == 0
    with monkeypatch.context() as patched:
        interrupt_after(3, signal.SIGINT, patched)
        assert train("run", *first) == 130
    (tmp_path / "first").rename(tmp_path / "moved")
    assert train("run", *first) == 0
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    assert train("another", *first) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"Error: '{tmp_path / 'first'}' does not exist")


def test_weights_that_have_learned_another_target_are_refused(
    train: Callable[..., int], tmp_path: Path, capsys: Said
) -> None:
    assert train("first") == 0
    assert train("run", "--from", str(tmp_path / "first"), "--set", "objective.target=v") == 2
    assert "predicts eps, and weights that have learned that do not predict v" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_another_model_than_the_start_is_refused(
    train: Callable[..., int], tmp_path: Path, capsys: Said
) -> None:
    assert train("first") == 0  # predicts eps on the chain cosine
    for recipe, said in (("flow", "trains velocity on the chain flow"), ("small-grey", "trains x0")):
        assert train("run", "--from", str(tmp_path / "first"), "--recipe", recipe) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_weights_of_another_path_are_refused_where_they_are_of_its_velocity_and_else_told_of(
    train: Callable[..., int], tmp_path: Path, capsys: Said
) -> None:
    of_path = ["--set", "chain.name=vp", "--set", "objective.target=path_velocity"]
    assert train("first", *of_path) == 0
    on_flow = ["--set", "chain.name=flow", "--set", "objective.target=path_velocity"]
    assert train("run", "--from", str(tmp_path / "first"), *on_flow) == 2
    assert "the velocity of the chain vp, which is not that of flow" in " ".join(capsys.readouterr().err.split())
    assert train("second", "--set", "objective.target=x0") == 0
    capsys.readouterr()
    other = ["--set", "chain.name=sigmoid", "--set", "objective.target=x0"]
    assert train("third", "--from", str(tmp_path / "second"), *other) == 0
    assert "it has to learn that of sigmoid" in " ".join(capsys.readouterr().err.split())


def test_a_run_of_minutes_starts_from_another_and_is_measured_for_it(
    train: Callable[..., int], tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 9.0, 9.0))  # so that threads are measured
    monkeypatch.setattr(planning, "_REPORTS", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert train("first") == 0
        assert train("run", "--from", str(tmp_path / "first"), "--minutes", "0.1") == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().err
    assert "measuring 2 and 1 threads" in said
    assert said.splitlines()[-1].startswith(f"Trained: '{tmp_path / 'run'}'.")


def test_a_start_that_passes_over_a_torn_checkpoint_says_so(
    train: Callable[..., int], tmp_path: Path, capsys: Said
) -> None:
    assert train("first", "--set", "training.save_minutes=1e-9") == 0
    newest = max((tmp_path / "first" / "checkpoints").iterdir())
    (newest / "model.safetensors").write_bytes(b"torn")
    assert train("run", "--from", str(tmp_path / "first")) == 0
    assert f"The checkpoint '{newest}' cannot be read" in capsys.readouterr().err
