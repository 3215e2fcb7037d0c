"""Muon: against singular values, against torch's own, and in a run."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clearwater.assembly import build_denoiser
from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import InputError
from clearwater.training import RunFolder, Trainer
from clearwater.training.muon import Muon, all_orthogonalized, matrices, orthogonalized
from clearwater.training.optimization import Optimization
from clearwater.training.optimizers import moments_of, optimizer
from clearwater.training.parameters import trained_parameters
from clearwater.world import World

CPU = torch.device("cpu")


def _images() -> ImageSet:
    drawn = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)
    return ImageSet(torch.from_numpy(drawn))


def _of(values: torch.Tensor, rows: int, columns: int, seed: int) -> torch.Tensor:
    """A matrix with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    left = torch.linalg.qr(torch.randn(rows, n, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, n, generator=generator, dtype=torch.float64))[0]
    return left @ torch.diag(values) @ right.T


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    smallest=st.floats(0.02, 1.0),
    size=st.floats(1e-4, 1e4),
)
def test_singular_values_become_nearly_one_and_vectors_stay(
    rows: int, columns: int, seed: int, smallest: float, size: float
) -> None:
    n = min(rows, columns)
    values = torch.linspace(1.0, smallest, n, dtype=torch.float64)
    values = values / values.norm()
    matrix = _of(values, rows, columns, seed)
    turned = orthogonalized(size * matrix)
    found = torch.linalg.svdvals(turned)
    reached = values > 0.01  # what the polynomials bring up in five iterations
    assert found[: int(reached.sum())].min() > 0.65
    assert found.max() < 1.25
    # The same vectors: in them it is diagonal.
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    between = left.T @ turned @ right.T
    assert (between - torch.diag(between.diagonal())).abs().max() < 1e-8


def test_many_matrices_are_turned_as_each_alone() -> None:
    drawn = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0))
    together = orthogonalized(drawn)
    for one, alone in zip(together, drawn, strict=True):
        torch.testing.assert_close(one, orthogonalized(alone), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(orthogonalized(drawn.mT), together.mT, rtol=1e-5, atol=1e-6)
    others = torch.randn(2, 20, 7, generator=torch.Generator().manual_seed(1))
    for made, alone in zip(
        all_orthogonalized([drawn, others, drawn[0, :3]]), (drawn, others, drawn[0, :3]), strict=True
    ):
        torch.testing.assert_close(made, orthogonalized(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-5])
def test_float32_is_enough_for_small_singular_values(smallest: float) -> None:
    """Against the iteration of the matrix itself, as it was published, in float64."""
    matrix = _of(torch.logspace(0, math.log10(smallest), 24, dtype=torch.float64), 24, 90, seed=3)
    x = matrix / matrix.norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    torch.testing.assert_close(orthogonalized(matrix), x, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(orthogonalized(matrix.float()).double(), x, rtol=0, atol=1e-3)


def _pair(shape: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return nn.Parameter(drawn.clone()), nn.Parameter(drawn.clone())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_matrices_move_as_with_the_muon_of_torch(shape: tuple[int, int]) -> None:
    ours, theirs = _pair(shape)
    mine = Muon([ours], [ours], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=False)
    reference = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    before = ours.detach().clone()
    for step in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step + 2))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    moved = (theirs.detach() - before).norm()
    assert moved > 0.05
    assert (ours.detach() - theirs.detach()).norm() < 0.04 * moved  # bf16 has eight bits: 2.6%


def test_the_rest_moves_as_with_adamw() -> None:
    ours, theirs = _pair((5,))
    kernel = nn.Parameter(torch.randn(4, 3, 2, 2))
    mine = Muon([kernel, ours], [kernel], lr=0.01, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
    for step in range(4):
        kernel.grad = torch.ones_like(kernel)
        gradient = torch.randn(5, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    assert torch.equal(ours, theirs)


def test_a_kernel_is_the_matrix_from_what_it_sees_to_features() -> None:
    """One step from zero momentum is the learning rate times 0.2 √(largest side) along U Vᵀ of the gradient."""
    gradient = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = nn.Parameter(torch.zeros(4, 3, 2, 2).to(memory_format=layout))
        kernel.grad = gradient.to(memory_format=layout)
        Muon([kernel], [kernel], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0, fused=False).step()
        moved = -kernel.detach() / (0.1 * 0.2 * math.sqrt(12))
        torch.testing.assert_close(moved, orthogonalized(gradient.flatten(1)).view_as(moved), rtol=1e-4, atol=1e-5)
        assert kernel.grad is None


def test_it_is_for_what_lies_between_hidden_features(tiny: Callable[..., Config]) -> None:
    network = build_denoiser(tiny("data.size=8", "data.channels=1"), CPU).network
    named = trained_parameters(network, None)
    chosen = {id(parameter) for parameter in matrices(named)}
    names = {name for name, parameter in named.items() if id(parameter) in chosen}
    assert {"time.layer_2.weight", "middle_1.block.conv_1.weight", "down.0.block.embed.weight"} <= names
    assert not {"first.weight", "last.weight", "time.layer_1.weight"} & names
    assert not [name for name in names if "norm" in name or name.endswith("bias")]


def test_a_run_resumes_to_the_bit(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.optimizer=muon")
    whole = Trainer(config, _images(), CPU)
    list(whole)
    halfway = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    for event in halfway:
        if getattr(event, "step", 0) >= 3:
            halfway.stop()
    resumed = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    assert 0 < resumed.step <= 8
    list(resumed)
    for name, value in whole.denoiser.network.named_parameters():
        assert torch.equal(value, dict(resumed.denoiser.network.named_parameters())[name]), name


def test_another_optimizer_begins_without_moments_that_it_does_not_know(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    for before, after in (("muon", "adam"), ("adam", "muon")):
        folder = tmp_path / before
        config = tiny(f"training.optimizer={before}", "training.steps=3")
        list(Trainer(config, _images(), CPU, RunFolder.create(folder, config)))
        other = tiny(f"training.optimizer={after}", "training.steps=5")
        trainer = Trainer(other, _images(), CPU, RunFolder.create(folder, other, override=True))
        list(trainer)
        assert trainer.step == 5
        moments = trainer._optimization.moments()
        kinds = {key.rpartition("/")[2] for key in moments}
        assert ("momentum" in kinds) == (after == "muon")


def test_an_overflow_of_fp16_makes_no_step(tiny: Callable[..., Config]) -> None:
    """The scaler passes over the whole step, also over the matrices."""
    config = tiny("training.optimizer=muon")
    network = build_denoiser(tiny("data.size=8", "data.channels=1"), CPU).network
    named = dict(network.named_parameters())
    made = optimizer(config.training, named, CPU)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=True)
    before = copy.deepcopy(network.state_dict())
    loss = sum(parameter.sum() for parameter in named.values())
    torch.autograd.backward(scaler.scale(loss))
    named["middle_1.block.conv_1.weight"].grad[0, 0, 0, 0] = math.inf
    scaler.unscale_(made)
    scaler.step(made)
    scaler.update()
    assert scaler.get_scale() == 512
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_shards_are_refused(tiny: Callable[..., Config]) -> None:
    config = tiny("training.optimizer=muon", "training.shard=true", "data.size=8", "data.channels=1")
    with pytest.raises(InputError, match="whole matrices"):
        Optimization(config, build_denoiser(config, CPU), None, CPU, World())  # type: ignore[arg-type]


def test_what_is_kept_of_a_parameter(tiny: Callable[..., Config]) -> None:
    named = dict(build_denoiser(tiny("data.size=8", "data.channels=1"), CPU).network.named_parameters())
    for name in ("adam", "adamw", "muon"):
        made = optimizer(tiny(f"training.optimizer={name}").training, named, CPU)
        for parameter in named.values():
            parameter.grad = torch.ones_like(parameter)
        made.step()
        for parameter in named.values():
            assert set(made.state[parameter]) == moments_of(made, parameter)
