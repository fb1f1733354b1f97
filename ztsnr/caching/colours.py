"""Pictures of any mode as 8-bit sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def opaque(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """RGB, over the background where it is transparent; from the profile that it embeds, if it does.

    A profile that cannot be used is passed over, as browsers do.
    """
    profile, alpha = image.info.get("icc_profile"), None
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha, image = image.getchannel("A"), image.convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if profile and (transform := _to_srgb(profile, image.mode)):
        image = transform.apply(image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if alpha is None:
        return image
    below = Image.new("RGB", image.size, background)
    below.paste(image, mask=alpha)
    return below


@lru_cache(64)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where it cannot be used for this mode, or changes nothing."""
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), -1).reshape(1, -1, len(mode))
    probe = Image.fromarray(colours[..., 0] if mode == "L" else colours, mode)
    shown, meant = (np.asarray(picture.convert("RGB"), dtype=int) for picture in (transform.apply(probe), probe))
    return transform if np.abs(shown - meant).max() > 1 else None
