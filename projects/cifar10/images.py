"""Reads image files into a model's input array."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from projects.cifar10.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def find_images(source: str) -> list[Path]:
    """List the image files that `source` names.

    Args:
        source: A file, several files separated by commas, or a folder, whose image files (by
            suffix) are listed in the order of their names.

    Returns:
        Existing files, at least one.

    Raises:
        UserError: If a file does not exist, or a folder contains no image.
    """
    whole = Path(source).expanduser()
    # A comma may be part of a name.
    parts = [whole] if whole.exists() else [Path(p.strip()).expanduser() for p in source.split(",")]
    files = [file for part in parts for file in _expand(part)]
    if not source.strip() or not files:
        raise UserError(
            "input names no image: expected a file, several separated by commas, or a folder. "
            f"Received: input={source}"
        )
    return files


def _expand(path: Path) -> list[Path]:
    if path == Path():  # the empty part of "a.png,"
        return []
    if not path.exists():
        raise UserError(
            f"There is no image {path.absolute()}: expected a file, several separated by commas, "
            "or a folder."
        )
    if not path.is_dir():
        return [path]
    # Formats that Pillow can read; it only writes some others, such as PDF.
    suffixes = {end for end, name in Image.registered_extensions().items() if name in Image.OPEN}
    files = sorted(
        file for file in path.iterdir() if file.is_file() and file.suffix.lower() in suffixes
    )
    if not files:
        raise UserError(
            f"The folder {path.absolute()} holds no image: expected files such as .png or .jpg."
        )
    return files


def read_images(files: list[Path], image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Read image files into one batch.

    Args:
        files: Images of any size and colour mode.
        image_shape: (height, width, channels) of the model's input.

    Returns:
        uint8, (N, height, width, channels), 0..255; rotated by their EXIF orientation and resized,
        not cropped.

    Raises:
        UserError: If a file is not an image or is damaged.
    """
    return np.stack([_read(file, image_shape) for file in files])


def _read(file: Path, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, channels = image_shape
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            pixels: Any = np.asarray(
                _eight_bits(upright)
                .convert(MODES[channels])
                .resize((width, height), Image.Resampling.BILINEAR)
            )
    except UnidentifiedImageError as error:
        raise UserError(
            f"{file} is not an image: expected a file that Pillow can open, such as .png or .jpg."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"The image {file} cannot be read: {error}.") from error
    return np.asarray(pixels, np.uint8).reshape(image_shape)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to 8 bits; Pillow's conversion would clip it to white.

    Raises:
        ValueError: If the pixels have 32 bits, whose range is unknown.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit {'floats' if image.mode == 'F' else 'integers'}, whose range "
            "is unknown; expected 8 or 16 bits a channel"
        )
    return image
