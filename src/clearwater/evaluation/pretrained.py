"""Networks of timm and of Hugging Face's transformers as extractors, from weights on this machine.

Each prepares images in its own way, with crops that hide the border of what is to be measured. Here all are given the
whole image: scaled to the size that the network takes by Pillow with the network's own filter, which smooths before it
makes an image smaller, rounded to 8 bits as Pillow does, and shifted and scaled as the network's settings say. (It is
how distances in DINOv2's features are published, Stein et al. 2023.) Grey images are three equal channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from clearwater.errors import InputError
from clearwater.evaluation.extractors import Seen, as_colour, check_images, exactly, key_of, library, text_of
from clearwater.evaluation.weights_file import fit, read_tensors

__all__ = ["Preparation", "Pretrained", "from_hugging_face", "from_timm"]

_BATCH = 32
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers


@dataclass(frozen=True)
class Preparation:
    """From 8-bit images to what a network takes.

    Attributes:
        size: (height, width) to scale to.
        filter: Pillow's number of the filter.
        mean: that is subtracted, of each channel, where 255 is 1.
        std: that it is then divided by.
    """

    size: tuple[int, int]
    filter: int = Image.Resampling.BICUBIC
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __call__(self, images: Tensor) -> Tensor:
        """Of uint8, shape (B, 1 or 3, H, W): float32, shape (B, 3, height, width), on the CPU."""
        x = as_colour(self._scaled(images.cpu())).float() / 255
        return (x - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)

    def _scaled(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) == self.size:
            return images
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows = list(pool.map(self._scaled_one, images.permute(0, 2, 3, 1).numpy()))
        return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)

    def _scaled_one(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = self.size
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
        scaled = np.asarray(image.resize((width, height), Image.Resampling(self.filter)))
        return scaled.reshape(height, width, -1)


@dataclass(frozen=True)
class Pretrained:
    """A network that was trained on other images: its last vector for the whole image.

    Attributes:
        name: the library, the model, the first digits of the weights' hash, and the size it sees images at.
        key: of the weights, of the library's version and of the preparation.
        dimensions: of its vectors.
        network: from what `preparation` gives to vectors, shape (B, D).
        preparation: of images.
        device: where the network is.
    """

    name: str
    key: str
    dimensions: int
    network: Callable[[Tensor], Tensor]
    preparation: Preparation
    device: torch.device
    classes: int = 0
    is_fid: bool = False
    batch: int = _BATCH

    def __call__(self, images: Tensor) -> Seen:
        """What it sees in images of 1 or 3 channels and of any size."""
        check_images(images, self.name)
        with exactly():
            return Seen(self.network(self.preparation(images).to(self.device)).float().cpu())


def from_timm(model: str, path: Path, device: torch.device, *, grey: bool = False) -> Pretrained:
    """A model of timm: its pooled features, before the classifier.

    Args:
        model: timm's name of it, such as vit_small_patch14_dinov2.
        path: its weights, .safetensors or .pth; those of a classifier are left out.
        device: where to put it.
        grey: whether it will see grey images, which its name then says.

    Raises:
        InputError: timm is not installed, there is no such model, or the weights are not its own.
    """
    timm = library("timm", f"The extractor timm:{model}")
    tensors = read_tensors(path)
    try:
        network: nn.Module = timm.create_model(model, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise InputError(f"timm has no model '{model}' ({error}): timm.list_models() lists what it has.") from None
    settings = timm.data.resolve_model_data_config(network)
    heads = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = (heads,) if isinstance(heads, str) else heads
    fit(network, tensors, path, f"timm's {model}", [f"{head}." for head in heads])
    preparation = Preparation(
        tuple(settings["input_size"][1:]), _FILTERS[settings["interpolation"]], settings["mean"], settings["std"]
    )
    label = f"timm {model}"
    rules = (timm.__version__, model)
    return _pretrained(label, rules, network.state_dict(), network.to(device), preparation, device, grey=grey)


def from_hugging_face(folder: Path, device: torch.device, *, grey: bool = False) -> Pretrained:
    """An image model of transformers from a folder: what it has pooled with trained weights, or else its first token.

    Args:
        folder: with config.json, preprocessor_config.json and the weights; nothing is ever downloaded.
        device: where to put it.
        grey: whether it will see grey images, which its name then says.

    Raises:
        InputError: transformers is not installed, or there is no whole image model in the folder.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"'{folder}' is no folder of a Hugging Face model: there is no config.json in it.")
    transformers = library("transformers", f"The extractor hf:{folder}")
    try:
        with _silent(transformers):
            model, left = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
            settings = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True).to_dict()
    except Exception as error:  # of many kinds, most of them OSError and ValueError
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"'{folder}' does not load as a Hugging Face image model: {said}") from None
    missing = sorted(name for name in left["missing_keys"] if "pooler" not in name)
    if missing or left["mismatched_keys"]:
        name = missing[0] if missing else next(iter(left["mismatched_keys"]))[0]
        raise InputError(
            f"The weights in '{folder}' do not fit its config.json: {name} is missing or of another shape."
        )
    # Of a model of images and texts, the part that sees images.
    network: nn.Module = dict(model.named_children()).get("vision_model", model)
    # What was not in the file is drawn anew each time: a pooler that nobody trained.
    pooled = len(missing) == len(left["missing_keys"])

    def features(x: Tensor) -> Tensor:
        out = network(pixel_values=x)
        vectors: Tensor = out.last_hidden_state[:, 0]
        if pooled and out.get("pooler_output") is not None:
            vectors = out["pooler_output"].flatten(1)
        return vectors

    network.eval().requires_grad_(False).to(device)
    label = f"hf {folder.resolve().name}"
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in left["missing_keys"]}
    rules = (transformers.__version__, pooled, (folder / "config.json").read_text())
    return _pretrained(label, rules, tensors, features, _preparation(settings, network), device, grey=grey)


def _preparation(settings: Mapping[str, Any], network: nn.Module) -> Preparation:
    """That of an image processor: the size is what it crops to, if it does."""
    cropped = settings.get("do_center_crop") and settings.get("crop_size")
    size: Any = (cropped or settings.get("size")) if settings.get("do_resize", True) else None
    if isinstance(size, Mapping):
        side = size.get("shortest_edge") or size.get("longest_edge")
        size = (size.get("height", side), size.get("width", side))
    if size is None or size == (None, None):
        size = network.config.image_size  # type: ignore[union-attr]
    height, width = (size, size) if isinstance(size, int) else size
    plain = Preparation((int(height), int(width)), int(settings.get("resample", 3)), (0.0,) * 3, (1.0,) * 3)
    # Shift and scale are of values where 255 is 1, which some models take to be another number.
    unit = settings.get("rescale_factor", 1 / 255) * 255 if settings.get("do_rescale", True) else 255.0
    mean, std = plain.mean, plain.std
    if settings.get("do_normalize"):
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    return Preparation(plain.size, plain.filter, tuple(m / unit for m in mean), tuple(s / unit for s in std))


def _pretrained(
    label: str,
    rules: object,
    tensors: Mapping[str, Tensor],
    features: Callable[[Tensor], Tensor],
    preparation: Preparation,
    device: torch.device,
    *,
    grey: bool,
) -> Pretrained:
    weights = key_of((), tensors)
    name = f"{label} (weights {weights[:8]}; {text_of(preparation.size)}{'; grey as RGB' if grey else ''})"
    key = key_of((label.partition(" ")[0], 1, rules, preparation, weights))
    probe = torch.randn(2, 3, *preparation.size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with exactly():
            first, again = features(probe), features(probe)
    except Exception as error:  # of models of texts or of sounds, whatever theirs is
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"The model {label} does not see images of {text_of(preparation.size)}: {said}") from error
    if first.ndim != 2 or len(first) != 2:
        raise InputError(f"The model {label} gives no vector for an image, but {tuple(first.shape)} for two of them.")
    if not torch.allclose(first, again, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise InputError(
            f"The model {label} draws at random, as one does that hides parts of the image: it gives one image other "
            "features each time, so that nothing can be measured with it."
        )
    return Pretrained(name, key, first.shape[1], features, preparation, device)


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Without transformers' bars and reports: what matters in them is said by this module."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
