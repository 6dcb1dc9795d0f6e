# SPDX-License-Identifier: Apache-2.0
"""The image opener: formats, depth, alpha, orientation, caps, damage, and what is written back."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from torchvision.transforms.v2 import InterpolationMode, functional

from mien.data.images import (
    centre_crop,
    from_uint8,
    is_image_file,
    list_images,
    load_tensor,
    open_image,
    resize_tensor,
    save_jpeg,
    save_png,
    to_uint8,
)
from mien.errors import BadInput

ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height: int = 12, width: int = 20) -> np.ndarray:
    """Every pixel different and no symmetry, so that a flip, a turn or a swapped channel changes it."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 11, columns * 9, (rows + 2 * columns) * 3], axis=-1).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A well-formed PNG that claims the given size and holds almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_give_the_pixels_back(kind, options):
    # Fails when a format is not allowed, or channels or axes are swapped.
    image = open_image(encoded(Image.fromarray(picture()), kind, **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), picture())


def test_jpeg_is_close_to_what_was_written():
    smooth = np.asarray(Image.fromarray(picture()).resize((160, 96), Image.Resampling.BICUBIC))
    image = open_image(encoded(Image.fromarray(smooth), "JPEG", quality=95, subsampling=0))
    assert np.abs(np.asarray(image).astype(int) - smooth).max() <= 8


def test_the_content_decides_the_format_not_the_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.fromarray(picture()), "PNG"))
    assert np.array_equal(np.asarray(open_image(path)), picture())


@pytest.mark.parametrize("kind", ["GIF", "ICO", "PPM"])
def test_other_formats_are_refused(kind, tmp_path):
    # Fails when the allow-list is not handed to Pillow.
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.fromarray(picture()), kind))
    with pytest.raises(BadInput, match=r"picture.png: not an image in one of the formats JPEG, PNG"):
        open_image(path)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.3: where row 0 and column 0 of the stored picture lie, undone with numpy."""
    if orientation >= 5:  # row 0 is a side: swap the axes first
        stored = stored.transpose(1, 0, 2)
    flips = {1: "", 2: "h", 3: "vh", 4: "v", 5: "", 6: "h", 7: "vh", 8: "v"}[orientation]
    stored = stored[::-1] if "v" in flips else stored
    return stored[:, ::-1] if "h" in flips else stored


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image = open_image(encoded(Image.fromarray(picture()), kind, exif=exif, **options))
    assert np.array_equal(np.asarray(image), upright(picture(), orientation))


def test_orientation_of_a_jpeg_turns_at_least_too():
    # Stored 800 wide x 200 high, shown 200 wide x 800 high. If at_least=(400, 90) were not turned, the decoder would
    # have to keep 200 rows for 400 wanted and not reduce at all.
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(Image.new("RGB", (800, 200), (200, 10, 10)), "JPEG", exif=exif)
    assert open_image(data).size == (200, 800)
    assert open_image(data, at_least=(400, 90)).size == (100, 400)


def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(Image.fromarray(picture()), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert np.array_equal(np.asarray(open_image(data)), picture())


def test_alpha_is_composited_on_white():
    alpha = np.tile(np.linspace(0, 255, 20).astype(np.uint8), (12, 1))
    rgba = np.dstack([picture(), alpha])
    share = alpha[..., None] / 255
    expected = picture() * share + 255 * (1 - share)
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})]:
        image = np.asarray(open_image(encoded(Image.fromarray(rgba, "RGBA"), kind, **options)))
        assert np.abs(image - expected).max() <= 1, kind


def test_grey_with_alpha_palette_and_colour_key():
    grey = Image.fromarray(picture()[..., 1])
    with_alpha = Image.merge("LA", [grey, Image.new("L", grey.size, 0)])
    assert np.asarray(open_image(encoded(with_alpha))).min() == 255  # all transparent: all white

    palette = Image.new("P", (4, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2, 3])
    shown = np.asarray(open_image(encoded(palette, transparency=bytes([255, 0, 255, 255]))))[0].tolist()
    assert shown == [[0, 0, 0], [255, 255, 255], [0, 255, 0], [0, 0, 255]]

    key = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    assert np.asarray(open_image(encoded(key, transparency=(1, 2, 3))))[0].tolist() == [[255] * 3, [9] * 3]


def test_grey_bilevel_and_cmyk_become_rgb():
    grey = picture()[..., 1]
    assert np.array_equal(np.asarray(open_image(encoded(Image.fromarray(grey)))), np.stack([grey] * 3, -1))
    bits = Image.fromarray(grey > 80)
    assert bits.mode == "1"
    assert np.array_equal(np.asarray(open_image(encoded(bits, "TIFF")))[..., 0], np.where(grey > 80, 255, 0))
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    for kind in ("TIFF", "JPEG"):
        red, green, blue = np.asarray(open_image(encoded(cmyk, kind)))[4, 4].tolist()
        assert red > 240, kind
        assert green < 15, kind
        assert blue < 15, kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_cut_off(kind):
    # Fails with Pillow's own conversion, which makes everything above 255 white.
    levels = np.array([[0, 128, 129, 255, 256, 32768, 65406, 65407, 65535]], np.uint16)
    expected = [round(int(v) / 257) for v in levels[0]]
    image = np.asarray(open_image(encoded(Image.fromarray(levels), kind)))
    assert image[0, :, 0].tolist() == expected
    assert np.array_equal(image[..., 0], image[..., 2])


def test_big_endian_integer_float_and_keyed_grey():
    levels = np.array([[0, 300, 40000, 65535]], np.uint16)
    expected = [round(int(v) / 257) for v in levels[0]]
    big = Image.frombytes("I;16B", (4, 1), levels.astype(">u2").tobytes())
    assert np.asarray(open_image(encoded(big, "TIFF")))[0, :, 0].tolist() == expected
    integer = Image.fromarray(levels.astype(np.int32))
    assert np.asarray(open_image(encoded(integer, "TIFF")))[0, :, 0].tolist() == expected
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.asarray(open_image(encoded(floats, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
    for values in (np.array([[0, 70000]], np.int32), np.array([[-1, 5]], np.int32), np.array([[0, 7.5]], np.float32)):
        with pytest.raises(BadInput, match="have no agreed white"):
            open_image(encoded(Image.fromarray(values), "TIFF"))
    keyed = bytearray(encoded(Image.fromarray(levels)))
    chunk = b"tRNS" + struct.pack(">H", 300)
    at = keyed.index(b"IDAT") - 4
    keyed[at:at] = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert np.asarray(open_image(bytes(keyed)))[0, :, 0].tolist() == [0, 255, expected[2], 255]


def test_twelve_bit_tiff_uses_its_own_white():
    # Written by hand, since Pillow reads but does not write 12 bits: two samples, 0 and 4095, in three bytes.
    entries = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1)]
    entries += [(278, 3, 1), (279, 4, 3)]
    body = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, kind, value in entries:
        body += struct.pack("<HHII", tag, kind, 1, value)
    data = (body + b"\0" * 4).ljust(200, b"\0") + bytes([0x00, 0x0F, 0xFF])
    assert np.asarray(open_image(data))[0, :, 0].tolist() == [0, 255]


def test_only_the_first_of_several_pictures_is_taken():
    first, second = Image.new("RGB", (5, 4), (255, 0, 0)), Image.new("RGB", (5, 4), (0, 0, 255))
    for kind in ("TIFF", "WEBP", "PNG"):
        data = encoded(first, kind, save_all=True, append_images=[second])
        assert open_image(data).getpixel((0, 0))[0] > 240, kind
    assert open_image(encoded(first, "MPO", save_all=True, append_images=[second])).getpixel((0, 0))[0] > 240


def test_metadata_is_not_handed_on():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010E] = "secret"
    image = open_image(encoded(Image.fromarray(picture()), "JPEG", exif=exif, comment=b"secret"))
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        assert b"secret" not in encoded(image, kind), kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"this is a text, not an image\n" * 9, "not an image in one of the formats"),
        (b"\x89PNG\r\n\x1a\n", "face.png: "),
        (encoded(Image.fromarray(picture(64, 64)))[:-40], "damaged or truncated"),
        (encoded(Image.fromarray(picture(64, 64)), "JPEG")[:-200], "damaged or truncated"),
        (encoded(Image.fromarray(picture(64, 64)), "BMP")[:-200], "damaged or truncated"),
        (encoded(Image.fromarray(picture(64, 64)), "JPEG", progressive=True)[:-200], "damaged or truncated"),
        (png_header(50_000, 50_000), "pixels, at most 64,000,000 are allowed"),
        (png_header(9_000, 9_000), "9000 x 9000 pixels, at most 64,000,000 are allowed"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "face.png"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        open_image(path)
    assert message in str(caught.value)
    assert "face.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_bomb_is_refused_before_it_is_decoded(monkeypatch):
    # Fails when the size is looked at after load().
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for side in (9_000, 12_000, 50_000):  # ours, Pillow's warning, Pillow's error
        with pytest.raises(BadInput, match="pixels, at most"):
            open_image(png_header(side, side))


def test_paths_that_are_not_files(tmp_path):
    with pytest.raises(BadInput, match="a folder, not an image"):
        open_image(tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(BadInput, match="cannot be read"):
        open_image("a\0b.png")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BadInput, match="cannot be read"):
        open_image(tmp_path / "file" / "face.png")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer for ever
    with pytest.raises(BadInput, match="not a regular file"):
        open_image(tmp_path / "pipe.png")
    with pytest.raises(BadInput) as caught:
        open_image(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)


def test_byte_cap(tmp_path):
    data = encoded(Image.fromarray(picture()))
    path = tmp_path / "face.png"
    path.write_bytes(data)
    assert open_image(path, max_bytes=len(data)).size == (20, 12)
    for source in (path, data):
        with pytest.raises(BadInput, match=f"{len(data)} bytes, at most {len(data) - 1} are allowed"):
            open_image(source, max_bytes=len(data) - 1)
    with pytest.raises(BadInput, match="12 pixels, at most 239"):
        open_image(path, max_pixels=239)
    assert open_image(path, max_pixels=240).size == (20, 12)


def test_errors_can_name_bytes():
    with pytest.raises(BadInput, match=r"faces.zip/a.png: the file is empty"):
        open_image(b"", name="faces.zip/a.png")


@pytest.mark.parametrize(
    ("wanted", "size"),
    [((1, 1), (75, 50)), ((50, 75), (75, 50)), ((51, 75), (150, 100)), ((50, 76), (150, 100)), ((400, 1), (600, 400))],
)
def test_draft_takes_the_smallest_size_that_is_enough(wanted, size):
    data = encoded(Image.new("RGB", (600, 400)), "JPEG")
    assert open_image(data, at_least=wanted).size == size
    assert open_image(encoded(Image.new("RGB", (600, 400))), at_least=wanted).size == (600, 400)


def test_load_tensor_equals_pillow_within_one_level(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    path.write_bytes(encoded(Image.fromarray(noise)))
    exact = load_tensor(path)
    assert exact.dtype == torch.float32
    assert torch.equal(exact, torch.from_numpy(noise).permute(2, 0, 1) / 255)
    for size in ((40, 64), (64, 64), (150, 200)):
        ours = load_tensor(path, size)
        pillow = np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BILINEAR)).astype(float)
        assert ours.shape == (3, *size)
        assert ours.is_contiguous()
        assert np.abs(ours.permute(1, 2, 0).numpy() * 255 - pillow).max() <= 1.01
    assert load_tensor(path, 32).shape == (3, 32, 32)
    with pytest.raises(BadInput, match="at least 1"):
        load_tensor(path, 0)


def test_reduced_decoding_stays_close_to_full_decoding(tmp_path, monkeypatch):
    # 1,024 -> 128 reads a JPEG at 1/4. Fails when the rule is loosened to the bare size (mean 2.6 levels).
    rng = np.random.default_rng(1)
    coarse = rng.integers(40, 215, (64, 64, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((1024, 1024), Image.Resampling.BICUBIC)).astype(float)
    large = np.clip(large + rng.normal(0, 10, large.shape), 0, 255).astype(np.uint8)
    data = encoded(Image.fromarray(large), "JPEG", quality=92)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((128, 128), Image.Resampling.BILINEAR)).astype(float)
    close = load_tensor(data, 128).permute(1, 2, 0).numpy() * 255
    assert open_image(data, at_least=(256, 256)).size == (256, 256)
    assert np.abs(close - full).mean() < 0.8


def test_resize_and_centre_crop():
    image = torch.arange(2 * 3 * 5 * 8).float().reshape(2, 3, 5, 8)
    assert torch.equal(centre_crop(image), image[..., :, 1:6])
    assert torch.equal(centre_crop(image, (3, 4)), image[..., 1:4, 2:6])
    assert resize_tensor(image, (5, 8)) is image
    assert resize_tensor(image, 4).shape == (2, 3, 4, 4)
    with pytest.raises(BadInput, match="cannot cut 6 x 6 from an image of 5 x 8"):
        centre_crop(image, 6)
    constant = torch.full((3, 7, 9), 0.25)
    assert torch.allclose(resize_tensor(constant, 4), torch.full((3, 4, 4), 0.25))


@pytest.mark.parametrize("size", [(5, 7), (40, 3), (9, 60)])
@pytest.mark.parametrize("shape", [(3, 23, 31), (2, 3, 23, 31), (2, 4, 3, 23, 31)])
def test_resizing_is_that_of_torchvision(size, shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    levels = (image * 255).byte()
    for one in (image, levels, levels.movedim(-3, -1).contiguous().movedim(-1, -3)):
        assert torch.equal(resize_tensor(one, size), functional.resize(one, list(size), antialias=True))
        nearest = functional.resize(one, list(size), InterpolationMode.NEAREST)
        assert torch.equal(resize_tensor(one, size, nearest=True), nearest)


def test_levels_round_and_clip():
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 1.0, 2.0])
    assert to_uint8(values.expand(3, 1, 7))[0, :, 0].tolist() == [0, 0, 0, 1, 127, 255, 255]
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(to_uint8(from_uint8(every)), every)
    with pytest.raises(BadInput, match="NaN"):
        to_uint8(torch.full((3, 2, 2), float("nan")))
    with pytest.raises(BadInput, match=r"shape \(1, 2, 2\)"):
        to_uint8(torch.zeros(1, 2, 2))
    with pytest.raises(BadInput, match="uint8 of shape"):
        from_uint8(np.zeros((2, 2, 3)))


def test_what_is_saved_can_be_read(tmp_path):
    image = from_uint8(picture())
    save_png(tmp_path / "deep" / "a.png", image)
    assert torch.equal(load_tensor(tmp_path / "deep" / "a.png"), image)
    smooth = from_uint8(np.asarray(Image.fromarray(picture()).resize((160, 96), Image.Resampling.BICUBIC)))
    save_jpeg(tmp_path / "a.jpg", smooth)
    assert (load_tensor(tmp_path / "a.jpg") - smooth).abs().max() <= 8 / 255
    with pytest.raises(BadInput, match="quality is 0"):
        save_jpeg(tmp_path / "b.jpg", image, quality=0)
    with pytest.raises(BadInput):
        save_png(tmp_path / "a.png", torch.full((3, 2, 2), float("inf")))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.jpg", "a.png", "deep"]  # nothing half written


def test_listing(tmp_path):
    for name in ["10.png", "2.png", "1.PNG", "b/1.jpg", "b/notes.txt", "._1.png", ".cache/3.png", "a/x.webp"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    found = [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)]
    assert found == ["1.PNG", "2.png", "10.png", "a/x.webp", "b/1.jpg", "linked/x.webp"]
    assert is_image_file("x.tiff")
    assert not is_image_file("x.gif")
    (tmp_path / "empty").mkdir()
    assert list_images(tmp_path / "empty") == []
    with pytest.raises(BadInput, match="no such folder"):
        list_images(tmp_path / "missing")
    with pytest.raises(BadInput, match="a file, not a folder"):
        list_images(tmp_path / "2.png")


# --- fuzz: an image or BadInput, never another exception ---------------------------------------------------------


def seeds() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)
    colour, deep = Image.fromarray(noise), Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    files = {
        "jpeg": encoded(colour, "JPEG", exif=exif),
        "progressive": encoded(colour, "JPEG", progressive=True),
        "cmyk": encoded(colour.convert("CMYK"), "JPEG"),
        "png": encoded(colour, exif=exif),
        "palette": encoded(colour.convert("P"), transparency=3),
        "deep": encoded(deep),
        "interlaced alpha": encoded(colour.convert("RGBA")),
        "webp": encoded(colour, "WEBP", exif=exif),
        "bmp": encoded(colour, "BMP"),
        "bmp palette": encoded(colour.convert("P"), "BMP"),
        "tiff": encoded(colour, "TIFF", exif=exif),
        "tiff deep": encoded(deep, "TIFF"),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        if TiffImagePlugin.COMPRESSION_INFO_REV.get(compression) is not None:
            files[compression] = encoded(colour, "TIFF", compression=compression)
    return files


SEEDS = seeds()


def opens_or_refuses(data: bytes) -> None:
    for options in ({}, {"at_least": (4, 4)}):
        try:
            image = open_image(data, max_pixels=1_000_000, **options)
        except BadInput as error:
            image, message = None, str(error)
        else:
            message = ""
        assert "\n" not in message
        if image is not None:
            assert image.mode == "RGB"
            assert np.asarray(image).shape == (*image.size[::-1], 3)


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_fuzz_random_bytes(data):
    opens_or_refuses(data)


@given(st.sampled_from(sorted(SEEDS)), st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_fuzz_good_start_random_rest(kind, data):
    opens_or_refuses(SEEDS[kind][: 8 + len(data) % 60] + data)


@given(
    st.sampled_from(sorted(SEEDS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=12),
    st.booleans(),
)
@settings(max_examples=1200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_fuzz_flipped_bits(kind, flips, in_head):
    data = bytearray(SEEDS[kind])
    reach = min(len(data), 200) if in_head else len(data)  # half of the time where the structure is
    for where, bit in flips:
        data[int(where * reach)] ^= 1 << bit
    opens_or_refuses(bytes(data))


@pytest.mark.parametrize("kind", sorted(SEEDS))
def test_fuzz_truncated_at_every_few_bytes(kind):
    data = SEEDS[kind]
    for end in range(0, len(data), max(1, len(data) // 150)):
        opens_or_refuses(data[:end])
    # Half of a file is never an image: all its rows would have to be invented.
    with pytest.raises(BadInput):
        open_image(data[: len(data) // 2])
