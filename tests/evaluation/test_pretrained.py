"""Networks of transformers and of timm from disk: tiny ones of random weights, against the libraries' own calls."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation import extractor
from clearwater.evaluation.pretrained import Preparation

SIDE = 28
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14}


def _drawn(n: int, *shape: int) -> Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)
    return torch.from_numpy(drawn)


# --- preparing images


def test_an_image_of_the_networks_size_is_only_shifted_and_scaled() -> None:
    images = _drawn(3, 3, 6, 8)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.5])
    expected = (images.numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    found = Preparation((6, 8), mean=tuple(mean), std=tuple(std))(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 8), (31, 29), (11, 13)], ids=["smaller", "larger", "as it is"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_whole_image_is_scaled_by_pillow(channels: int, size: tuple[int, int]) -> None:
    images = _drawn(5, channels, 11, 13)
    found = Preparation(size, Image.Resampling.BICUBIC, (0.0,) * 3, (1.0,) * 3)(images)
    for image, x in zip(images, found, strict=True):
        picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
        expected = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        np.testing.assert_allclose(x * 255, expected, rtol=0, atol=1e-4)


def test_stripes_that_get_smaller_are_smoothed() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(20).expand(1, 3, 40, 40)
    x = Preparation((20, 20), Image.Resampling.BOX, (0.0,) * 3, (1.0,) * 3)(stripes)
    assert x.unique().tolist() == pytest.approx([128 / 255])  # the mean, 127.5, rounded


# --- Hugging Face


@pytest.fixture(scope="module")
def transformers() -> Iterator[Any]:
    found = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.utils.logging.set_verbosity_error()
        found.utils.logging.disable_progress_bar()
        yield found


@pytest.fixture
def saved(transformers: Any, tmp_path: Path) -> Callable[..., Path]:
    """The folder of a model of random weights and of how it prepares images."""

    def save(model: str, processor: str = "ViTImageProcessor", settings: object = None, **sizes: object) -> Path:
        torch.manual_seed(0)
        config = getattr(transformers, model.partition("For")[0].removesuffix("Model") + "Config")(**sizes)
        named = {"add_pooling_layer": False} if model == "ViTModel" else {}
        getattr(transformers, model)(config, **named).save_pretrained(tmp_path / model)
        size = {"height": SIDE, "width": SIDE}
        prepared = getattr(transformers, processor)(**(settings or {"size": size}))  # type: ignore[arg-type]
        prepared.save_pretrained(tmp_path / model)
        return tmp_path / model

    return save


def _own(transformers: Any, folder: Path, images: Tensor) -> Any:
    """What the library itself makes of images, prepared by Pillow and without its crop."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, do_center_crop=False, backend="pil")
    given = [image.permute(1, 2, 0).numpy() for image in images.expand(-1, 3, -1, -1)]
    with torch.inference_mode():
        model = transformers.AutoModel.from_pretrained(folder).eval()
        size = {"height": SIDE, "width": SIDE}
        return getattr(model, "vision_model", model)(**processor(given, size=size, return_tensors="pt"))


_CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": SIDE, "width": SIDE}}
_PLAIN = {"size": {"height": SIDE, "width": SIDE}, "do_normalize": False}
_CLIP = {
    "vision_config": {**_SIZES, "intermediate_size": 16},
    "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20},
}


@pytest.mark.parametrize(
    ("model", "processor", "settings", "sizes", "pooled"),
    [
        ("Dinov2Model", "BitImageProcessor", _CROPPED, {**_SIZES, "mlp_ratio": 2}, True),
        ("ViTModel", "ViTImageProcessor", None, {**_SIZES, "intermediate_size": 16}, False),
        ("ViTForImageClassification", "ViTImageProcessor", None, {**_SIZES, "intermediate_size": 16}, False),
        ("ViTModel", "ViTImageProcessor", _PLAIN, _SIZES, False),
        ("CLIPModel", "CLIPImageProcessor", _CROPPED, _CLIP, True),
        ("ResNetModel", "BitImageProcessor", _CROPPED,
         {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}, True),
    ],
    ids=["DINOv2", "ViT", "a classifier", "not shifted", "CLIP", "ResNet"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(3, 40, 52), (1, SIDE, SIDE)], ids=["RGB", "grey"])
def test_features_are_what_transformers_computes(
    transformers: Any,
    saved: Callable[..., Path],
    model: str,
    processor: str,
    settings: object,
    sizes: dict[str, object],
    *,
    pooled: bool,
    shape: tuple[int, int, int],
) -> None:
    folder, images = saved(model, processor, settings, **sizes), _drawn(3, *shape)
    made = extractor(f"hf:{folder}", shape)
    own = _own(transformers, folder, images)
    expected = own.pooler_output.flatten(1) if pooled else own.last_hidden_state[:, 0]
    found = made(images)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3 * float(expected.abs().max())  # images do differ
    torch.testing.assert_close(found.features, expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max())))
    assert made.dimensions == expected.shape[1]
    assert (made.classes, found.probabilities, made.is_fid) == (0, None, False)


def test_an_image_is_seen_by_itself_and_alike_when_it_is_loaded_again(saved: Callable[..., Path]) -> None:
    """With a pooler that is not in the file, and is drawn anew by the library each time."""
    folder, images = saved("ViTModel", **_SIZES, intermediate_size=16), _drawn(9, 3, 20, 20)
    first, second = (extractor(f"hf:{folder}", (3, 20, 20)) for _ in range(2))
    assert (first.name, first.key) == (second.name, second.key)
    parts = torch.cat([second(part).features for part in images.split([1, 5, 3])])
    torch.testing.assert_close(parts, first(images).features, rtol=0, atol=1e-5)


def test_the_name_says_what_it_is(saved: Callable[..., Path]) -> None:
    folder = saved("Dinov2Model", **_SIZES)
    colour, grey = (extractor(f"hf:{folder}", (channels, 9, 9)).name for channels in (3, 1))
    assert colour.startswith("hf Dinov2Model (weights ")
    assert colour.endswith("; 28 × 28)")
    assert grey == colour.removesuffix(")") + "; grey as RGB)"


def _without(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    save_file({key: tensor for key, tensor in load_file(path).items() if key != name}, path, {"format": "pt"})


def _cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: _without(folder, "layernorm.weight"), r"layernorm\.weight is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "does not load as a Hugging Face image model"),
        (lambda folder: _cut(folder, "model.safetensors"), "does not load as a Hugging Face image model"),
        (lambda folder: _cut(folder, "config.json"), "does not load as a Hugging Face image model"),
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "does not load as a Hugging Face image model"),
    ],
    ids=["a weight missing", "no weights", "torn weights", "torn config", "no config", "no preparation"],
)
def test_a_folder_that_is_not_whole_is_refused(
    saved: Callable[..., Path], change: Callable[[Path], object], said: str
) -> None:
    folder = saved("Dinov2Model", **_SIZES)
    change(folder)
    with pytest.raises(InputError, match=said):
        extractor(f"hf:{folder}", (3, 20, 20))


def test_a_model_that_hides_patches_at_random_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved("ViTMAEModel", **_SIZES, intermediate_size=16)
    with pytest.raises(InputError, match="draws at random"):
        extractor(f"hf:{folder}", (3, 20, 20))


def test_a_model_of_texts_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved("BertModel", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=30)
    with pytest.raises(InputError, match="does not see images"):
        extractor(f"hf:{folder}", (3, 20, 20))


# --- timm


@pytest.fixture(scope="module")
def timm() -> Any:
    try:
        return importlib.import_module("timm")
    except Exception as error:
        pytest.skip(f"timm does not load here: {error}")


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_features_are_what_timm_computes(timm: Any, tmp_path: Path, model: str, suffix: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(model, pretrained=False).eval()
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    size = network.pretrained_cfg["input_size"]
    images = _drawn(2, *size)
    made = extractor(f"timm:{model}:{path}", size)
    mean, std = (torch.tensor(network.pretrained_cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        x = (images.float() / 255 - mean) / std
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    torch.testing.assert_close(made(images).features, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert made.name.startswith(f"timm {model} (weights ")
    assert made.dimensions == expected.shape[1]


def test_models_and_weights_that_timm_does_not_know_are_refused(timm: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    for spec, said in (
        (f"timm:no_such:{path}", "no model 'no_such'"),
        (f"timm:test_resnet:{path}", "are not those of"),
    ):
        with pytest.raises(InputError, match=said):
            extractor(spec, (3, 20, 20))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'timm'", name="timm"),
            r"needs timm: pip install 'clearwater\[timm\]'\.$",
        ),
        (ModuleNotFoundError("No module named 'torchvision'", name="torchvision"), "No module named 'torchvision'"),
        (RuntimeError("operator torchvision::nms does not exist"), "installed but does not load .*nms"),
    ],
    ids=["not installed", "without torchvision", "beside another torchvision"],
)
def test_a_library_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("clearwater.evaluation.extractors.import_module", fail)
    with pytest.raises(InputError, match=said):
        extractor(f"timm:resnet18:{tmp_path / 'weights.pth'}", (3, 20, 20))


def test_nothing_is_asked_of_the_network(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    folder, before = saved("Dinov2Model", **_SIZES), dict(os.environ)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert extractor(f"hf:{folder}", (3, 9, 9)).dimensions == 16
    assert dict(os.environ) == before  # nobody else is told to stay off the network
