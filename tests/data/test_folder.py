"""Folders of images of every kind: each becomes the pixels that a person sees, or is named and left out."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clearwater.data import ImageSet, load_images
from clearwater.errors import InputError

Pixels = npt.NDArray[np.uint8]
_ORIENTATION = 0x0112


def _load(folder: Path, size: tuple[int, int] | None = None, channels: int | None = None) -> ImageSet:
    return load_images(str(folder), size=size, channels=channels)


def _seen(folder: Path, size: tuple[int, int] | None = None, channels: int | None = None) -> Pixels:
    """The only image of the folder: (H, W) if it is grey, (H, W, 3) if not."""
    loaded = _load(folder, size, channels)
    assert loaded.skipped == ()
    (image,) = loaded.images.permute(0, 2, 3, 1).numpy()
    return image[..., 0] if image.shape[-1] == 1 else image


def _random(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _over_white(colour: npt.NDArray[np.float64], alpha: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return colour * alpha / 255 + 255 - alpha


# --- kinds of images


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "PNG", "Tiff"])
def test_rgb_is_kept_to_the_bit(tmp_path: Path, suffix: str) -> None:
    pixels = _random(9, 12, 3)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    np.testing.assert_array_equal(_seen(tmp_path), pixels)


@pytest.mark.parametrize("suffix", ["png", "pgm", "bmp", "gif", "PNG"])
def test_grey_is_kept_to_the_bit(tmp_path: Path, suffix: str) -> None:
    pixels = _random(9, 12)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(_seen(tmp_path, channels=1), pixels)


def test_half_transparent_red_is_pink_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0] = [[255, 0, 0, 255], [255, 0, 0, 128], [255, 0, 0, 0]]
    pixels[1] = [[0, 0, 0, 51], [0, 80, 160, 255], [10, 20, 30, 0]]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    # Over white: colour * alpha + 255 * (1 - alpha), so red at 128/255 is (255, 127, 127).
    expected = [
        [[255, 0, 0], [255, 127, 127], [255, 255, 255]],
        [[204, 204, 204], [0, 80, 160], [255, 255, 255]],
    ]
    np.testing.assert_array_equal(_seen(tmp_path), expected)


def test_rgba_is_blended_with_white_everywhere(tmp_path: Path) -> None:
    pixels = _random(16, 16, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = _over_white(pixels[..., :3].astype(float), pixels[..., 3:].astype(float))
    np.testing.assert_allclose(_seen(tmp_path), expected, atol=1)


def test_grey_with_alpha_is_blended_with_white_and_stays_grey(tmp_path: Path) -> None:
    pixels = _random(16, 16, 2)
    Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
    seen = _seen(tmp_path)
    assert seen.ndim == 2
    np.testing.assert_allclose(seen, _over_white(pixels[..., 0].astype(float), pixels[..., 1].astype(float)), atol=1)


def _palette_image(colours: Pixels, indices: Pixels) -> Image.Image:
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    return image


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp"])
def test_a_palette_image_has_its_palettes_colours(tmp_path: Path, suffix: str) -> None:
    colours, indices = _random(256, 3, seed=1), _random(16, 16)
    _palette_image(colours, indices).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(_seen(tmp_path), colours[indices])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_the_transparent_colour_of_a_palette_is_white(tmp_path: Path, suffix: str) -> None:
    colours, indices = _random(256, 3, seed=1), _random(16, 16)
    _palette_image(colours, indices).save(tmp_path / f"a.{suffix}", transparency=int(indices[3, 4]))
    expected = np.where((indices == indices[3, 4])[..., None], 255, colours[indices])
    np.testing.assert_array_equal(_seen(tmp_path), expected)


def test_a_palette_with_an_alpha_a_colour_is_blended_with_white(tmp_path: Path) -> None:
    colours, alphas, indices = _random(256, 3, seed=1), _random(256, seed=2), _random(16, 16)
    _palette_image(colours, indices).save(tmp_path / "a.png", transparency=alphas.tobytes())
    expected = _over_white(colours[indices].astype(float), alphas[indices][..., None].astype(float))
    np.testing.assert_allclose(_seen(tmp_path), expected, atol=1)


def test_the_transparent_colour_of_an_rgb_image_is_white(tmp_path: Path) -> None:
    pixels = _random(8, 8, 3)
    pixels[2, 3] = pixels[5, 6] = (7, 8, 9)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(7, 8, 9))
    pixels[2, 3] = pixels[5, 6] = 255
    np.testing.assert_array_equal(_seen(tmp_path), pixels)


def test_the_transparent_value_of_a_grey_image_is_white(tmp_path: Path) -> None:
    pixels = _random(8, 8)
    pixels[2, 3] = pixels[5, 6] = 77
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=77)
    np.testing.assert_array_equal(_seen(tmp_path), np.where(pixels == 77, 255, pixels))


@pytest.mark.parametrize("suffix", ["png", "pbm", "tif"])
def test_one_bit_is_black_and_white(tmp_path: Path, suffix: str) -> None:
    bits = _random(9, 12) > 127
    Image.fromarray(bits).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(_seen(tmp_path), np.where(bits, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_divided_by_257_and_rounded(tmp_path: Path, suffix: str) -> None:
    # All sums of a multiple of 257 and a remainder next to where rounding turns; 128 / 257 is below a half.
    wide = np.add.outer(np.arange(0, 65536, 257), [-129, -128, 0, 128, 129]).clip(0, 65535).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(_seen(tmp_path, size=wide.shape), np.round(wide / 257))


def test_big_endian_16_bits_are_read_alike(tmp_path: Path) -> None:
    wide = np.arange(0, 65536, 1024, np.uint16).reshape(8, 8)
    with Image.frombytes("I;16B", (8, 8), wide.astype(">u2").tobytes()) as image:
        image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(_seen(tmp_path), np.round(wide / 257))


def test_cmyk_is_seen_in_rgb(tmp_path: Path) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:] = (40, 100, 200, 60)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    expected = [(255 - ink) * (255 - 60) / 255 for ink in (40, 100, 200)]
    np.testing.assert_allclose(_seen(tmp_path), np.broadcast_to(expected, (16, 16, 3)), atol=2)


_TURNED = {
    1: lambda seen: seen,
    2: np.fliplr,
    3: lambda seen: np.rot90(seen, 2),
    4: np.flipud,
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: np.rot90(seen, -1),  # a quarter clockwise
    7: lambda seen: np.rot90(seen, 2).swapaxes(0, 1),
    8: lambda seen: np.rot90(seen, 1),
}


@pytest.mark.parametrize("orientation", _TURNED)
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_a_photo_that_lies_on_its_side_is_turned(tmp_path: Path, orientation: int, mode: str) -> None:
    stored = _random(6, 10, 3) if mode == "RGB" else _random(6, 10)
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    lying = Image.fromarray(stored.astype(np.uint16) * 257 if mode == "I;16" else stored)
    assert lying.mode == mode
    lying.save(tmp_path / "a.png", exif=exif)
    # The size is the images' own, so it too must be the one after turning.
    np.testing.assert_array_equal(_seen(tmp_path), _TURNED[orientation](stored))


def test_a_jpeg_photo_is_turned(tmp_path: Path) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :16] = 255
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=100)
    seen = _seen(tmp_path)
    assert seen.shape == (32, 16, 3)
    np.testing.assert_allclose(seen[:16], 255, atol=2)
    np.testing.assert_allclose(seen[16:], 0, atol=2)


def test_an_orientation_that_is_no_number_turns_nothing(tmp_path: Path) -> None:
    # A TIFF header, and a directory with one entry: tag, type (2 is text), count, offset of the value.
    text = b"sideways\0"
    entry = _ORIENTATION.to_bytes(2, "little") + b"\2\0" + len(text).to_bytes(4, "little") + (26).to_bytes(4, "little")
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + entry + bytes(4) + text
    stored = _random(6, 10)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(_seen(tmp_path), stored)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    colours = [(250, 20, 30), (20, 250, 30), (20, 30, 250)]
    first, *more = (Image.new("RGB", (10, 10), colour) for colour in colours)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=more, lossless=True)
    np.testing.assert_array_equal(_seen(tmp_path, channels=3), np.broadcast_to(colours[0], (10, 10, 3)))


# --- size and channels


def test_the_middle_of_a_wide_image_is_kept(tmp_path: Path) -> None:
    pixels = _random(20, 44, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_seen(tmp_path, size=(20, 20)), pixels[:, 12:32])


def test_the_middle_of_a_tall_image_is_kept(tmp_path: Path) -> None:
    pixels = _random(44, 20)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_seen(tmp_path, size=(30, 20)), pixels[7:37])


def test_a_checkerboard_shrinks_to_its_mean(tmp_path: Path) -> None:
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    # Without antialiasing each pixel would be 0 or 255. The outermost ones feel the edge.
    np.testing.assert_allclose(_seen(tmp_path, size=(16, 16))[1:-1, 1:-1], 127.5, atol=1)


def test_a_constant_image_is_constant_at_any_size(tmp_path: Path) -> None:
    Image.new("RGB", (50, 37), (12, 130, 240)).save(tmp_path / "a.png")
    for size in ((8, 8), (64, 48), (3, 90)):
        np.testing.assert_array_equal(_seen(tmp_path, size), np.broadcast_to((12, 130, 240), (*size, 3)))


def test_a_halved_image_is_its_2_by_2_blocks(tmp_path: Path) -> None:
    blocks = np.kron(np.array([[30, 200], [90, 140]], np.uint8), np.ones((40, 40), np.uint8))
    Image.fromarray(blocks).save(tmp_path / "a.png")
    seen = _seen(tmp_path, size=(40, 40))
    for rows, columns in ((slice(0, 16), slice(0, 16)), (slice(24, 40), slice(24, 40))):
        np.testing.assert_array_equal(seen[rows, columns], blocks[::2, ::2][rows, columns])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(28, 28), (28, 28)], (28, 28)),
        ([(12, 20), (12, 20)], (12, 20)),
        ([(64, 48)], (64, 48)),
        ([(65, 65)], (32, 32)),
        ([(20, 65)], (32, 32)),
        ([(28, 28), (28, 27)], (32, 32)),
        ([(500, 300), (20, 10), (33, 90)], (32, 32)),
    ],
)
def test_a_shared_size_of_at_most_64_is_kept_and_anything_else_becomes_32(
    tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    for i, (height, width) in enumerate(sizes):
        Image.new("L", (width, height), 10 * i).save(tmp_path / f"{i}.png")
    loaded = _load(tmp_path)
    assert loaded.shape == (1, *expected)
    assert loaded.images.flatten(1).unique(dim=1).flatten().tolist() == [10 * i for i in range(len(sizes))]


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (["L", "1", "LA", "I;16"], 1),
        (["L", "RGB"], 3),
        (["L", "P"], 3),
        (["RGBA"], 3),
        (["CMYK"], 3),
    ],
)
def test_images_are_grey_only_if_all_of_them_are(tmp_path: Path, modes: list[str], channels: int) -> None:
    for mode in modes:
        suffix = "tif" if mode == "CMYK" else "png"
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode.replace(';', '')}.{suffix}")
    assert _load(tmp_path).shape == (channels, 8, 8)


def test_colour_read_as_grey_is_its_luma(tmp_path: Path) -> None:
    pixels = _random(16, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    luma = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(_seen(tmp_path, channels=1), luma, atol=1)


def test_grey_read_as_colour_is_the_grey_three_times(tmp_path: Path) -> None:
    pixels = _random(16, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_seen(tmp_path, channels=3), np.stack([pixels] * 3, -1))


# --- which files


def test_images_come_in_the_order_of_their_paths_from_folders_in_folders(tmp_path: Path) -> None:
    values = {"b.png": 1, "a/z.JPG": 0, "c/d/e/f.webp": 3, "c/a.bmp": 2, "d.Png": 4}
    for name, value in values.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 50 * value).convert("RGB").save(tmp_path / name, lossless=True)
    loaded = _load(tmp_path)
    assert [int(image[0, 0, 0]) for image in loaded.images] == [0, 50, 100, 150, 200]


def test_other_files_hidden_files_and_folders_named_like_images_are_passed_over(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 99).save(tmp_path / "a.png")
    Image.new("L", (8, 8), 1).save(tmp_path / ".hidden.png")
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves beside files")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    np.testing.assert_array_equal(_seen(tmp_path), np.full((8, 8), 99))


def test_a_folder_below_a_hidden_one_is_read(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "images"
    folder.mkdir(parents=True)
    Image.new("L", (8, 8), 99).save(folder / "a.png")
    np.testing.assert_array_equal(_seen(folder), np.full((8, 8), 99))


# --- broken files


def _encoded(suffix: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_random(24, 24, 3)).convert(mode).save(buffer, suffix)
    return buffer.getvalue()


def _float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(buffer, "TIFF")
    return buffer.getvalue()


def _integer_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) * 2000 - 1).save(buffer, "TIFF")
    return buffer.getvalue()


_BROKEN = {
    "truncated.png": lambda: _encoded("PNG")[:-600],
    "truncated.jpg": lambda: _encoded("JPEG")[:-200],
    "header.png": lambda: _encoded("PNG")[:20],
    "text.png": lambda: b"This is a shopping list, not an image.\n",
    "empty.png": lambda: b"",
    "float.tif": _float_tiff,
    "32bits.tif": _integer_tiff,
}


@pytest.mark.parametrize("name", _BROKEN)
def test_a_broken_file_is_named_and_skipped_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    pixels = _random(2, 8, 8, 3, seed=5)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    Image.fromarray(pixels[1]).save(tmp_path / "z.png")
    (tmp_path / name).write_bytes(_BROKEN[name]())
    loaded = _load(tmp_path, size=(8, 8), channels=3)
    (sentence,) = loaded.skipped
    assert sentence.startswith(f"{tmp_path / name}: ")
    assert len(sentence.splitlines()) == 1
    np.testing.assert_array_equal(loaded.images.permute(0, 2, 3, 1), pixels)


def test_every_broken_file_is_counted(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "good.png")
    for name, content in _BROKEN.items():
        (tmp_path / name).write_bytes(content())
    loaded = _load(tmp_path)
    assert len(loaded.images) == 1
    assert [sentence.split(": ")[0] for sentence in loaded.skipped] == sorted(str(tmp_path / name) for name in _BROKEN)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some of the damage before it reads on or gives up
@settings(max_examples=100, derandomize=True)
@given(
    kind=st.sampled_from(["PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP", "PPM"]),
    mode=st.sampled_from(["RGB", "L"]),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.floats(0, 1),
)
def test_whatever_befalls_a_file_it_is_read_or_counted_and_its_neighbour_is_intact(
    kind: str, mode: str, damage: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(_encoded(kind, mode))
    for place, value in damage:
        content[int(place * min(len(content), 400))] = value  # headers are where the damage is interesting
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("L", (8, 8), 99).save(folder / "good.png")
        (folder / f"bad.{kind.lower()}").write_bytes(content[: int(len(content) * max(kept, 0.1))])
        loaded = _load(folder)
    assert len(loaded.images) + len(loaded.skipped) == 2
    assert loaded.images[-1].unique().tolist() == [99]


def test_a_folder_without_images_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(InputError, match="There is no image in") as caught:
        _load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_broken_files_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    for name in ("empty.png", "text.png", "truncated.png"):
        (tmp_path / name).write_bytes(_BROKEN[name]())
    with pytest.raises(InputError, match="None of the 3 images") as caught:
        _load(tmp_path)
    assert "empty.png" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
