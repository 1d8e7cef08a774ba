"""Image files -> the array a model takes."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from projects.cifar10.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def find_images(given: str) -> list[Path]:
    """List the image files that `given` names.

    Args:
        given: A file, several separated by commas, or a folder, whose image files (by suffix) are
            taken in the order of their names.

    Returns:
        Existing files, at least one.

    Raises:
        UserError: A file is missing, or a folder holds no image.
    """
    whole = Path(given).expanduser()
    # A comma may be part of a name.
    parts = [whole] if whole.exists() else [Path(p.strip()).expanduser() for p in given.split(",")]
    files = [file for part in parts for file in _expand(part)]
    if not given.strip() or not files:
        raise UserError(
            "input names no image: expected a file, several separated by commas, or a folder. "
            f"Received: input={given}"
        )
    return files


def _expand(path: Path) -> list[Path]:
    if path == Path():  # what an empty part of "a.png," becomes
        return []
    if not path.exists():
        raise UserError(
            f"There is no image {path.absolute()}: expected a file, several separated by commas, "
            "or a folder."
        )
    if not path.is_dir():
        return [path]
    # What Pillow reads: it also knows formats, such as PDF, that it only writes.
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
        image_shape: (height, width, channels) the model takes.

    Returns:
        uint8, (N, height, width, channels), 0..255; turned upright by their EXIF orientation and
        resized, not cropped.

    Raises:
        UserError: A file is not an image, or is damaged.
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
    """Bring 16-bit grey to 8 bits; Pillow's own conversion would clip it to white.

    Raises:
        ValueError: The pixels are wider numbers, whose range nothing tells.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit {'floats' if image.mode == 'F' else 'integers'}, whose range "
            "is unknown; expected 8 or 16 bits a channel"
        )
    return image
