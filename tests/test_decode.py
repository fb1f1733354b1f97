import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.photos import image
from ztsnr.caching.colours import to_srgb_on
from ztsnr.caching.decode import UPRIGHT, View, decode, decode_mask, examine, examine_mask
from ztsnr.core.errors import BadImage

WHITE = (255, 255, 255)
CAT = image(3, (90, 140))


def saved(image, form="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def full_view(shape):
    return View(shape, (0, 0), shape, False)


def shown(content, view):
    return decode(content, view, WHITE).astype(int)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JXL"])
def test_every_format_decodes_to_the_image(form):
    if form == "JXL":
        pytest.importorskip("pillow_jxl")
    content = saved(CAT, form, **({"quality": 95} if form in ("JPEG", "WEBP", "AVIF", "JXL") else {}))
    assert examine(content) == (90, 140)
    pixels = shown(content, full_view((90, 140)))
    assert pixels.shape == (90, 140, 3)
    assert np.abs(pixels - np.asarray(CAT)).mean() < (12 if form == "GIF" else 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    undone = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    turn = UPRIGHT.get(orientation)
    laid = CAT.transpose(undone.get(turn, turn)) if turn is not None else CAT
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(laid, "PNG", exif=exif)
    assert examine(content) == (90, 140)
    assert (shown(content, full_view((90, 140))) == np.asarray(CAT)).all()


def test_transparency_shows_the_background():
    image = Image.new("RGBA", (4, 2), (200, 0, 0, 0))
    image.paste((10, 20, 30, 255), (0, 0, 2, 2))
    pixels = decode(saved(image), full_view((2, 4)), (1, 2, 3))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 3].tolist() == [1, 2, 3]
    palette = image.convert("P")
    palette.info["transparency"] = palette.getpixel((3, 0))
    assert np.asarray(to_srgb_on(palette, (1, 2, 3)))[0, 3].tolist() == [1, 2, 3]


def test_16_bit_greys_and_cmyk_decode_to_rgb():
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    pixels = shown(saved(Image.fromarray(grey)), full_view((16, 16)))
    assert (pixels[..., 0] == grey // 257).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    inks = shown(saved(CAT.convert("CMYK"), "TIFF"), full_view((90, 140)))
    assert np.abs(inks - np.asarray(CAT)).max() <= 1


def test_animation_decodes_to_its_first_frame():
    content = saved(CAT, "WEBP", save_all=True, append_images=[Image.new("RGB", CAT.size)], lossless=True)
    assert (shown(content, full_view((90, 140))) == np.asarray(CAT)).all()


@pytest.mark.parametrize("resized", [(45, 70), (131, 204)])
@pytest.mark.parametrize("flip", [False, True])
def test_view_is_a_crop_of_the_resized_image(resized, flip):
    expected = np.asarray(CAT.resize(resized[::-1], Image.Resampling.BICUBIC).crop((10, 5, 58, 37)))
    pixels = shown(saved(CAT), View(resized, (5, 10), (32, 48), flip))
    assert np.abs(pixels - (expected[:, ::-1] if flip else expected)).max() <= 1


def test_image_beyond_one_block_of_memory_decodes():
    large = image(8, (2100, 2000))  # beyond 16 MB of Pillow's
    expected = large.resize((100, 105), Image.Resampling.BICUBIC)
    assert np.abs(shown(saved(large, "BMP"), full_view((105, 100))) - np.asarray(expected)).max() <= 1


ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Their primaries' XYZ, columns, adapted to the white of profiles (D50)."""


def adobe_profile():
    """Adobe RGB (1998): a matrix and an exponent of 563 / 256."""

    def xyz(values):
        return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))

    curve = struct.pack(">4s4xIH2x", b"curv", 1, 563)
    text = struct.pack(">4s4xI6s", b"desc", 6, b"Adobe\0") + bytes(80)
    parts = {b"desc": text, b"wtpt": xyz([0.9642, 1, 0.8249])}
    parts |= {name + b"XYZ": xyz(column) for name, column in zip((b"r", b"g", b"b"), ADOBE.T, strict=True)}
    parts |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    start, table, body = 132 + 12 * len(parts), b"", b""
    for name, part in parts.items():
        table += struct.pack(">4s2I", name, start + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    head = struct.pack(">I4s4s4s4s4s12x4s", start + len(body), b"", b"\2\x10\0\0", b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(parts)) + table + body


def test_embedded_colour_profile_is_converted_to_srgb():
    linear = (np.asarray(CAT) / 255) ** (563 / 256) @ (np.linalg.inv(SRGB) @ ADOBE).T
    linear = linear.clip(0, 1)
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(expected - np.asarray(CAT)).mean() > 4
    view = full_view((90, 140))
    assert np.abs(shown(saved(CAT, icc_profile=adobe_profile()), view) - expected).max() < 2
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"no profile"):
        assert (shown(saved(CAT, icc_profile=profile), view) == np.asarray(CAT)).all()
    clear = CAT.copy()
    clear.putalpha(128)
    over = expected * 128 / 255 + 255 * 127 / 255
    assert np.abs(shown(saved(clear, icc_profile=adobe_profile()), view) - over).max() < 2
    deep = Image.fromarray(np.asarray(CAT.convert("L")).astype(np.uint16) * 257)
    assert (shown(saved(deep, icc_profile=adobe_profile()), view)[..., 0] == np.asarray(CAT.convert("L"))).all()


def test_large_jpeg_is_decoded_at_a_reduced_scale_and_looks_the_same():
    large = image(5, (1600, 1200))
    content = saved(large, "JPEG", quality=95)
    view = View((100, 75), (0, 0), (100, 75), False)
    assert np.abs(shown(content, view) - np.asarray(large.resize((75, 100), Image.Resampling.BICUBIC))).mean() < 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"a text", "not an image of a known format$"),
        (b"\xff\x0a" + bytes(9), "it is broken|JPEG XL: pip install pillow-jxl-plugin"),
        (saved(CAT, "JPEG")[:1200], "it is broken: image file is truncated"),
        (saved(CAT)[:-60], "it is broken"),
        (saved(CAT)[:100], "it is broken"),
        (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "without a known range"),
        (saved(Image.fromarray(np.full((4, 4), 2**20, np.int32)), "TIFF"), "without a known range"),
        (saved(Image.new("1", (30_000, 30_000))), "more than 89 million pixels"),
    ],
)
def test_broken_or_unsupported_file_is_refused_with_the_reason(content, message):
    with pytest.raises(BadImage, match=message):
        examine(content)


def test_truncated_or_corrupt_file_decodes_or_raises_bad_image():
    content, draw = saved(CAT, "JPEG"), np.random.default_rng(0)
    for length in range(0, len(content), 97):
        with pytest.raises(BadImage):
            examine(content[:length])
    for _ in range(200):
        broken = bytearray(content)
        broken[draw.integers(len(broken))] ^= 1 << draw.integers(8)
        try:
            height, width = examine(bytes(broken))
        except BadImage:
            continue
        assert decode(bytes(broken), View((9, 14), (0, 0), (9, 14), False), WHITE).shape == (9, 14, 3)
        assert height > 0
        assert width > 0


def masked(mask):
    """The image with this mask (H, W) as its transparency, and the mask as a file."""
    image = CAT.copy()
    image.putalpha(Image.fromarray(mask))
    return {"alpha": saved(image), "files": saved(Image.fromarray(mask))}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("masks", ["files", "alpha"])
def test_mask_is_the_mean_of_each_cell_of_the_view(masks, flip):
    mask = np.random.default_rng(0).integers(0, 256, (90, 140), dtype=np.uint8)
    cells = decode_mask(masked(mask)[masks], masks, View((90, 140), (10, 20), (64, 96), flip), 8)
    expected = mask[10:74, 20:116].reshape(8, 8, 12, 8).mean((1, 3))
    assert np.abs(cells - (expected[:, ::-1] if flip else expected)).max() < 1  # rounded along each axis


def test_mask_follows_its_image_through_resize_crop_and_flip():
    """White where the image is, black elsewhere: at every view the two agree cell by cell."""
    half = np.zeros((90, 140), dtype=np.uint8)
    half[30:, :70] = 255
    content, files = saved(Image.fromarray(half).convert("RGB")), masked(half)["files"]
    for view in (View((45, 70), (5, 6), (40, 64), False), View((180, 280), (40, 80), (128, 96), True)):
        pixels = decode(content, view, WHITE)[..., 0].astype(float)
        cells = pixels.reshape(view.size[0] // 8, 8, -1, 8).mean((1, 3))
        assert np.abs(decode_mask(files, "files", view, 8) - cells).max() < 8


def test_white_mask_is_ignored_and_an_unusable_one_is_refused():
    size, half = (90, 140), np.full((90, 140), 255, dtype=np.uint8)
    assert not any(examine_mask(content, masks, size) for masks, content in masked(half).items())
    assert not examine_mask(saved(CAT, "JPEG"), "alpha", size)
    half[:9] = 127
    assert all(examine_mask(content, masks, size) for masks, content in masked(half).items())
    for content, message in [
        (saved(Image.new("L", (140, 80), 9)), "its mask has a different size: 80 x 140 for 90 x 140 pixels"),
        (saved(Image.new("L", (140, 90))), "its mask is entirely black"),
        (b"x", "its mask cannot be used: it is not an image"),
    ]:
        with pytest.raises(BadImage, match=message):
            examine_mask(content, "files", size)
