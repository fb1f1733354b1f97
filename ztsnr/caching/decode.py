"""Decodes images to upright 8-bit sRGB of a view's size, and their masks."""

import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch
from PIL import ExifTags, Image
from PIL.Image import Transpose
from torch import Tensor
from torch.nn.functional import interpolate

from ztsnr.caching.colours import to_srgb_on
from ztsnr.core.errors import BadImage

with suppress(ImportError):
    import pillow_jxl  # noqa: F401 (it registers JPEG XL with Pillow)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jxl")
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""EXIF orientation -> the transposition that undoes it."""
SIDEWAYS = (5, 6, 7, 8)
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Pillow warns above this number and refuses twice as many; we refuse more than this."""
JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
"""First bytes of JPEG XL files."""
MaskSource = Literal["none", "files", "alpha"]
"""Source of masks: none, separate files, or the images' transparency."""
Background = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such images are refused


@dataclass(frozen=True)
class View:
    """A resize to `resized`, then a crop of `size` at `crop`, then a mirror image if `flip`.

    All are (vertical, horizontal) in pixels of the upright image.
    """

    resized: tuple[int, int]
    crop: tuple[int, int]
    size: tuple[int, int]
    flip: bool


def examine(content: bytes) -> tuple[int, int]:
    """Height and width of the upright image. Decodes the complete file. Raises BadImage."""
    with _opened(content) as image:
        width, height = image.size
        orientation = _load(image, (1, 1))  # a JPEG is read completely, but decoded at a reduced scale
        if _range_is_unknown(image):
            raise BadImage(f"its pixels are of mode {image.mode}, beyond 16 bits, without a known range")
    return (width, height) if orientation in SIDEWAYS else (height, width)


def decode(content: bytes, view: View, background: Background) -> np.ndarray:
    """The view, (h, w, 3) uint8, with the background behind transparent pixels. Raises BadImage.

    torch's bicubic filter matches Pillow's and takes a tenth of the time.
    """
    planes = _planes(upright(content, view.resized, lambda image: to_srgb_on(image, background)))
    resized = interpolate(planes, size=view.resized, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    (top, left), (height, width) = view.crop, view.size
    crop = resized[top : top + height, left : left + width].numpy()
    return _mirrored(np.stack([crop[..., channel] for channel in range(3)], -1), view)


def examine_mask(content: bytes, masks: MaskSource, size: tuple[int, int]) -> bool:
    """Whether the mask excludes any part of an image of this height and width. Raises BadImage."""
    try:
        mask = _mask(content, masks)
    except BadImage as error:
        raise BadImage(f"its mask cannot be used: {error}") from error
    if (mask.height, mask.width) != size:
        raise BadImage(f"its mask has a different size: {mask.height} x {mask.width} for {size[0]} x {size[1]} pixels")
    least, most = _extrema(mask)
    if not most:
        raise BadImage("its mask is entirely black: nothing of the image would be trained")
    return least < 255


def decode_mask(content: bytes, masks: MaskSource, view: View, factor: int) -> np.ndarray:
    """The view's mask, (h, w) uint8, each cell the mean of its factor x factor pixels. Raises BadImage."""
    mask = _mask(content, masks)
    cells = view.size[1] // factor, view.size[0] // factor
    return _mirrored(np.asarray(mask.resize(cells, Image.Resampling.BOX, _box(mask, view))), view)


def _planes(image: Image.Image) -> Tensor:
    """RGB -> (1, 3 or 4, H, W) uint8 in channels-last memory, which torch resizes fastest."""
    try:
        pixels = torch.from_dlpack(pa.array(image).flatten())  # Pillow's own memory, with an unused fourth byte
    except ValueError:  # Pillow splits more than 16 MB into several blocks
        pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(1, image.height, image.width, -1).permute(0, 3, 1, 2)


def _mask(content: bytes, masks: MaskSource) -> Image.Image:
    """The upright mask: 0 is not trained, 255 is."""
    return upright(content, (2**16, 2**16), _alpha if masks == "alpha" else _grey)


def _alpha(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image.convert("RGBA").getchannel("A")
    return Image.new("L", image.size, 255)


def _grey(image: Image.Image) -> Image.Image:
    image.info.pop("icc_profile", None)  # a mask's grey is not a colour
    return to_srgb_on(image, (0, 0, 0)).convert("L")


def upright(content: bytes, least: tuple[int, int], convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The converted upright image. A JPEG may be decoded at a smaller scale, but not below the size `least`."""
    with _opened(content) as image:
        orientation = _load(image, least)
        return convert(image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image)


def _box(image: Image.Image, view: View) -> tuple[float, float, float, float]:
    """The view's crop in pixels of the upright image: left, top, right, bottom."""
    scale = image.height / view.resized[0], image.width / view.resized[1]
    top, left = view.crop[0] * scale[0], view.crop[1] * scale[1]
    bottom, right = top + view.size[0] * scale[0], left + view.size[1] * scale[1]
    return left, top, min(right, image.width), min(bottom, image.height)  # rounding may pass the edge by 1e-13


def _mirrored(pixels: np.ndarray, view: View) -> np.ndarray:
    return np.ascontiguousarray(pixels[:, ::-1] if view.flip else pixels)


def _opened(content: bytes) -> Image.Image:
    """The first frame, not decoded yet. Raises BadImage."""
    if not content:
        raise BadImage("it is empty")
    try:
        image = Image.open(io.BytesIO(content))
        is_too_large = image.width * image.height > MAX_PIXELS
    except Image.DecompressionBombError:
        image, is_too_large = None, True
    except Image.UnidentifiedImageError as error:
        hint = " (JPEG XL needs pip install pillow-jxl-plugin)" if content.startswith(JPEG_XL) else ""
        raise BadImage(f"it is not an image of a known format{hint}") from error
    except Exception as error:
        raise _broken(error) from error
    if image is None or is_too_large:
        raise BadImage(f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels")
    return image


def _load(image: Image.Image, least: tuple[int, int]) -> int:
    """Decodes the image and returns its orientation, 1 to 8. Raises BadImage.

    Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that is at least `least`, height and width of the upright image.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        height, width = least[::-1] if orientation in SIDEWAYS else least
        image.draft("RGB", (width, height))
        image.load()
    except Exception as error:  # a decoder may raise any exception for a broken file
        raise _broken(error) from error
    if image.format == "JXL" and not cast(Any, image).jpeg:
        return 1  # its decoder has applied the orientation, whatever EXIF says
    return orientation if orientation in UPRIGHT else 1


def _broken(error: Exception) -> BadImage:
    return BadImage(f"it is broken: {str(error).splitlines()[0] if str(error) else type(error).__name__}")


def _extrema(image: Image.Image) -> tuple[float, float]:
    """Minimum and maximum of an image with one channel."""
    return cast(tuple[float, float], image.getextrema())


def _range_is_unknown(image: Image.Image) -> bool:
    if image.mode == "I":  # 16 bits in some formats, 32 in others
        low, high = _extrema(image)
        return low < 0 or high >= 2**16
    return image.mode == "F"
