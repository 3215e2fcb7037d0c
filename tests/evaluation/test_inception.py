"""Inception in the FID's form: with random weights on disk, against torch-fidelity's own network and in closed form."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation import Extractor, extractor
from clearwater.evaluation.inception import STANDARD, InceptionNetwork, as_tensorflow_scales

RGB = (3, 40, 52)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Random weights with which features depend on the image: a layer keeps its input's variance."""
    generator = torch.Generator().manual_seed(0)
    drawn = InceptionNetwork().state_dict()
    for name, tensor in drawn.items():
        if tensor.ndim == 4:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith("bn.weight") else 0.0, 0.1, generator=generator)
    return drawn


@pytest.fixture(scope="module")
def weights(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(tensors, path)
    yield path
    path.unlink()  # of 95 MB, which pytest would keep


@pytest.fixture(scope="module")
def inception(weights: Path) -> Extractor:
    return extractor(f"inception:{weights}", RGB)


def _drawn(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Images of a few large patches and of noise, so that they differ in what a network sees."""
    rng = np.random.default_rng(seed)
    images = np.kron(rng.integers(0, 200, (n, shape[0], 2, 2)), np.ones((shape[1] // 2, shape[2] // 2)))
    return torch.from_numpy((images + rng.integers(0, 56, images.shape)).astype(np.uint8))


@pytest.fixture(scope="module")
def torch_fidelity() -> Iterator[Any]:
    """The module with torch-fidelity's network.

    The package imports torchvision for its other networks, which is not always there, and this one does without.
    """
    found = importlib.util.find_spec("torch_fidelity")
    if found is None:
        pytest.skip("torch-fidelity is not installed: pip install --no-deps torch-fidelity")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("torch_fidelity")
        except ImportError:
            package = types.ModuleType("torch_fidelity")
            package.__path__ = list(found.submodule_search_locations or ())
            patch.setitem(sys.modules, "torch_fidelity", package)
        yield importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")


# --- against torch-fidelity


@pytest.mark.parametrize("size", [(40, 52), (299, 299), (300, 410)], ids=["larger", "as it is", "smaller"])
def test_features_and_probabilities_are_torch_fidelitys(
    torch_fidelity: Any, inception: Extractor, weights: Path, size: tuple[int, int]
) -> None:
    network = torch_fidelity.FeatureExtractorInceptionV3("fid", ["2048", "logits_unbiased"], str(weights))
    images = _drawn(2, 3, *size)
    features, logits = network(images)
    seen = inception(images)
    assert float((features[0] - features[1]).abs().max()) > 1e-2 * float(features.abs().max())  # images do differ
    torch.testing.assert_close(seen.features, features, rtol=0, atol=1e-6 * float(features.abs().max()))
    assert seen.probabilities is not None
    torch.testing.assert_close(seen.probabilities, logits.double().softmax(1).float(), rtol=0, atol=1e-6)


# --- its rules


def test_it_has_the_weights_of_the_published_network() -> None:
    """Szegedy et al.'s 21,785,568 in convolutions and normalizations, and a last layer of 2048 × 1008 + 1008."""
    count = sum(weight.numel() for weight in InceptionNetwork().parameters())
    assert count == 21_785_568 + 2048 * 1008 + 1008


@pytest.mark.parametrize("n", [1, 2, 28, 32, 150, 299, 512])
def test_a_ramp_is_scaled_as_tensorflow_does(n: int) -> None:
    """Pixel i is taken at i·n/299, held back at the last pixel, and not smoothed: of a ramp that is its value."""
    ramp = torch.arange(n, dtype=torch.float32).view(1, 1, 1, n)
    expected = np.minimum(np.arange(299) * n / 299, n - 1)
    for dim, x in ((3, ramp), (2, ramp.transpose(2, 3))):
        scaled = as_tensorflow_scales(x, 299).select(5 - dim, 0)
        np.testing.assert_allclose(scaled.flatten(), expected, rtol=0, atol=1e-4)


def test_stripes_that_get_smaller_are_not_smoothed() -> None:
    stripes = torch.tensor([0.0, 255.0]).repeat(299).expand(1, 3, 4, 598)
    assert float(as_tensorflow_scales(stripes, 299).max()) == 0  # every other pixel; a mean would be 127.5


def test_the_network_sees_128_as_zero_in_steps_of_a_128th() -> None:
    seen: list[Tensor] = []
    network = InceptionNetwork().eval()
    network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for value in (0, 128, 255):
        network(torch.full((1, 3, 299, 299), value, dtype=torch.uint8))
    assert [x.unique().tolist() for x in seen] == [[-1.0], [0.0], [127 / 128]]


def test_averages_leave_out_what_pads(tensors: dict[str, Tensor]) -> None:
    """So that a block sees nothing of the border in the same value everywhere, where it only averages."""
    network = InceptionNetwork().eval().requires_grad_(False)
    network.load_state_dict(tensors)
    block = network.get_submodule("Mixed_5b")
    pooled = block(torch.ones(1, 192, 8, 8))[:, -32:]  # the branch that averages is the last
    assert float((pooled.amax((2, 3)) - pooled.amin((2, 3))).max()) < 1e-6
    assert float(pooled.abs().max()) > 0.1


def test_the_last_blocks_pool_takes_the_largest(tensors: dict[str, Tensor]) -> None:
    """A single bright point reaches its eight neighbours undiminished."""
    network = InceptionNetwork().eval().requires_grad_(False)
    network.load_state_dict(tensors)
    x = torch.zeros(1, 2048, 8, 8)
    x[..., 4, 4] = 1
    pooled = network.get_submodule("Mixed_7c")(x)[:, -192:]
    near = pooled[..., 3:6, 3:6]
    assert torch.equal(near.amax((2, 3)), near.amin((2, 3)))
    assert not torch.equal(near[..., 1, 1], pooled[..., 0, 0])


def test_probabilities_are_of_the_features_without_the_bias(inception: Extractor, tensors: dict[str, Tensor]) -> None:
    seen = inception(_drawn(2, *RGB))
    logits = seen.features.double().numpy() @ tensors["fc.weight"].double().numpy().T
    p = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(seen.probabilities, p / p.sum(1, keepdims=True), rtol=1e-3, atol=1e-7)
    assert float(tensors["fc.bias"].std()) > 0.05


def test_grey_images_are_three_equal_channels_and_the_name_says_so(weights: Path, inception: Extractor) -> None:
    grey, images = extractor(f"inception:{weights}", (1, 40, 52)), _drawn(1, 1, 40, 52)
    seen = grey(images)
    assert torch.equal(seen.features, inception(images.repeat(1, 3, 1, 1)).features)
    assert grey.name == inception.name.removesuffix(")") + "; grey as RGB)"


def test_an_image_is_seen_by_itself(inception: Extractor) -> None:
    images = _drawn(3, *RGB)
    together = inception(images).features
    alone = torch.cat([inception(image).features for image in images.flip(0).split(1)]).flip(0)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6 * float(together.abs().max()))


@pytest.mark.parametrize(
    "other",
    [lambda x: x.float(), lambda x: x / 255, lambda x: x.to(torch.int16), lambda x: x[0], lambda x: x[:, :2]],
    ids=["numbers", "0 … 1", "16-bit", "no batch", "two channels"],
)
def test_what_is_not_8_bit_rgb_or_grey_is_refused(inception: Extractor, other: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="uint8"):
        inception(other(_drawn(2, *RGB)))


# --- its weights


def test_only_the_standard_file_makes_it_the_fid(
    weights: Path, inception: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not inception.is_fid
    assert inception.name == f"inception-v3 (weights {content[:8]})"
    assert "fid" not in inception.name
    monkeypatch.setattr("clearwater.evaluation.inception.STANDARD", content)
    standard = extractor(f"inception:{weights}", RGB)
    assert standard.is_fid
    assert standard.name == "inception-v3-fid (pt_inception-2015-12-05)"
    assert (
        extractor(f"inception:{weights}", (1, 9, 9)).name == "inception-v3-fid (pt_inception-2015-12-05; grey as RGB)"
    )


def test_the_standard_file_is_the_one_whose_name_begins_with_its_hash() -> None:
    assert (STANDARD[:8], len(STANDARD)) == ("6726825d", 64)


def test_the_same_weights_in_another_file_see_the_same_and_are_not_verified(
    tensors: dict[str, Tensor], inception: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    save_file(without, tmp_path / "weights.safetensors")
    torch.save({"state_dict": without}, tmp_path / "nested.pth")
    for name in ("weights.safetensors", "nested.pth"):
        other = extractor(f"inception:{tmp_path / name}", RGB)
        assert other.key == inception.key
        assert other.name != inception.name
        assert torch.equal(other(_drawn(1, *RGB)).features, inception(_drawn(1, *RGB)).features)
        (tmp_path / name).unlink()


class _Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"fc.weight": _Runs(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="holds no weights that can be read"):
        extractor(f"inception:{tmp_path / 'weights.pth'}", RGB)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None], ids=["empty", "a page", "cut short"])
def test_a_file_that_is_no_weights_is_refused(weights: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    (tmp_path / name).write_bytes(weights.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(InputError, match="holds no weights that can be read"):
        extractor(f"inception:{tmp_path / name}", RGB)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda of: of.pop("fc.bias"), r"it has no fc\.bias\.$"),
        (lambda of: of.update({"AuxLogits.fc.weight": torch.zeros(2)}), r"it has AuxLogits\.fc\.weight\.$"),
        (lambda of: of.update({"fc.bias": torch.zeros(1000)}), r"fc\.bias.*1000"),
        (lambda of: of.clear() or of.update(a=torch.zeros(2)), r"and \d+ more names differ\.$"),
        (lambda of: of.update(a=3), "something else than tensors"),
    ],
    ids=["missing", "too many", "torchvision's 1000 classes", "another network's", "no tensors"],
)
def test_weights_of_another_network_are_refused(
    tensors: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, object]], object], said: str
) -> None:
    changed: dict[str, object] = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in tensors.items()}
    change(changed)
    torch.save(changed, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=said):
        extractor(f"inception:{tmp_path / 'weights.pth'}", RGB)
