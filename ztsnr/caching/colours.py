"""Converts images of any mode to 8-bit sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def to_srgb_on(image: Image.Image, background: tuple[float, float, float]) -> Image.Image:
    """Applies the embedded colour profile and puts the image on the background. Returns 8-bit RGB.

    Ignores a profile that cannot be used, as browsers do.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")

    if profile and (transform := _to_srgb(profile, image.mode)):
        image = transform.apply(image)
    image = image if image.mode == "RGB" else image.convert("RGB")

    if alpha is None:
        return image
    result = Image.new("RGB", image.size, background)
    result.paste(image, mask=alpha)
    return result


@lru_cache(64)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None if the profile cannot be used for this mode, or changes nothing."""
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if not isinstance(transform, ImageCms.ImageCmsTransform):
        return None

    # test a grid of all colours: does the profile change any by more than rounding?
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), -1).reshape(1, -1, len(mode))
    probe = Image.fromarray(colours[..., 0] if mode == "L" else colours, mode)
    before = np.asarray(probe.convert("RGB"), dtype=int)
    after = np.asarray(transform.apply(probe).convert("RGB"), dtype=int)
    return transform if np.abs(after - before).max() > 1 else None
