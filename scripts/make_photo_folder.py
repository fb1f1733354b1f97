"""Makes a folder of captioned photographs of many sizes from scikit-image and scikit-learn: real images, offline.

    .venv/bin/python scripts/make_photo_folder.py photos            # 24 images
    .venv/bin/python scripts/make_photo_folder.py photos --broken   # and files that cannot be trained on
    .venv/bin/python scripts/make_photo_folder.py photos --crops 20 # and 20 parts of each, of various shapes

It needs scikit-image, which ztsnr itself does not.
"""

import argparse
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CAPTIONS = {
    "astronaut": "portrait, woman, astronaut, orange suit, flag",
    "brick": "texture, bricks, greyscale",
    "camera": "photograph, man, camera, tripod, greyscale",
    "cat": "animal, cat, close-up, whiskers",
    "cell": "microscopy, cell, greyscale",
    "clock": "clock, motion blur, greyscale",
    "coffee": "still life, coffee, cup, spoon, table",
    "coins": "coins, ancient, rows, greyscale",
    "colorwheel": "diagram, colour wheel",
    "grass": "texture, grass, greyscale",
    "gravel": "texture, gravel, greyscale",
    "horse": "silhouette, horse, black and white",
    "hubble_deep_field": "space, galaxies, stars, telescope",
    "immunohistochemistry": "microscopy, tissue, stained",
    "logo": "logo, snake, transparent background",
    "moon": "space, moon, craters, greyscale",
    "page": "text, page, greyscale",
    "retina": "medicine, retina, blood vessels",
    "rocket": "rocket, launch pad, night, lights",
    "text": "text, handwriting, greyscale",
}
SUFFIXES = (".png", ".jpg", ".webp", ".tiff", ".bmp", ".avif")


def photographs() -> dict[str, np.ndarray]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    images = {name: np.asarray(getattr(data, name)()) for name in CAPTIONS}
    flower, temple = load_sample_images().images[::-1]
    return images | {"flower": flower, "temple": temple}


def to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels.astype(np.uint8))


def write_images(folder: Path, crops: int) -> None:
    """Writes images in each format in turn, with captions in text files or in a table."""
    rows, draw = [], np.random.default_rng(0)
    for number, (name, pixels) in enumerate(photographs().items()):
        photograph, caption = to_image(pixels), CAPTIONS.get(name, f"photograph, {name}")
        suffix = ".png" if photograph.mode == "RGBA" else SUFFIXES[number % len(SUFFIXES)]
        options = {"quality": 92} if suffix in (".jpg", ".webp", ".avif") else {}
        parts = {name: photograph} | {f"{name}_{i}": part(photograph, draw) for i in range(crops)}
        for stem, image in parts.items():
            path = subfolder(folder, caption) / f"{stem}{suffix}"
            image.save(path, **options)
            if number % 5 == 4:
                rows.append({"file_name": str(path.relative_to(folder)), "text": caption})
            else:
                path.with_suffix(".caption" if number % 5 == 3 else ".txt").write_text(caption + "\n")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def subfolder(folder: Path, caption: str) -> Path:
    for name in ("space", "text"):
        if name in caption:
            return folder / name
    return folder


def part(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    """A random crop with at least half of each side."""
    width, height = (int(side * draw.uniform(0.5, 1)) for side in image.size)
    left, top = draw.integers(image.width - width + 1), draw.integers(image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def write_odd(folder: Path) -> None:
    """Writes unusual images: EXIF orientation, CMYK, 16 bits, a palette, an animation."""
    from skimage import data

    cat = Image.fromarray(data.cat())
    exif = Image.Exif()
    exif[0x0112] = 6
    cat.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=92)
    cat.convert("CMYK").save(folder / "inks.jpg", quality=92)
    cat.quantize(64).save(folder / "palette.png")
    Image.fromarray(data.camera().astype(np.uint16) * 257).save(folder / "deep.png")
    cat.save(folder / "moving.gif", save_all=True, append_images=[cat.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    for name in ("turned", "inks", "palette", "deep", "moving"):
        (folder / f"{name}.txt").write_text(f"odd, {name}\n")


def write_broken(folder: Path) -> None:
    astronaut = (folder / "astronaut.png").read_bytes()
    photograph = next(folder.glob("*.jpg")).read_bytes()
    (folder / "truncated.jpg").write_bytes(photograph[: len(photograph) // 2])
    (folder / "truncated.png").write_bytes(astronaut[: len(astronaut) // 2])
    (folder / "zero_bytes.png").write_bytes(b"")
    (folder / "not_an_image.webp").write_text("a text with an image's suffix\n")
    (folder / "really_a_png.jpg").write_bytes(astronaut)
    Image.new("RGB", (1, 1)).save(folder / "one_pixel.png")
    Image.new("RGB", (20000, 3), (90, 120, 30)).save(folder / "ribbon.png")
    (folder / "bomb.png").write_bytes(bomb(30_000, 30_000))
    (folder / "foreign_caption.png").write_bytes(astronaut)
    (folder / "foreign_caption.txt").write_bytes("写真, 猫".encode("shift_jis"))
    for name, target in (("loop", "."), ("itself.png", "itself.png"), ("nowhere.jpg", "absent.jpg")):
        if not (folder / name).is_symlink():
            os.symlink(target, folder / name)
    (folder / "unreadable.png").write_bytes(astronaut)
    (folder / "unreadable.png").chmod(0)
    (folder / "a_folder.png").mkdir(exist_ok=True)


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that decodes to a large image."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--crops", type=int, default=0, metavar="N", help="and N parts of each image")
    arguments.add_argument("--broken", action="store_true", help="and files that cannot be trained on")
    options = arguments.parse_args()
    for name in ("space", "text"):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    write_images(options.folder, options.crops)
    write_odd(options.folder)
    if options.broken:
        write_broken(options.folder)
    print(options.folder)


if __name__ == "__main__":
    main()
