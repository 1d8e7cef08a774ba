"""Image files: how they are listed, turned upright, resized, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.cifar10.errors import UserError
from projects.cifar10.images import find_images, read_images

RED, BLUE = (255, 0, 0), (0, 0, 255)


def half_red_half_blue(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right; 40x20 pixels."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colours_survive_every_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    half_red_half_blue(mode).save(path)
    (pixels,) = read_images([path], (10, 8, 3))
    assert pixels.shape == (10, 8, 3)
    assert pixels.dtype == np.uint8
    assert pixels[5, 0].tolist() == list(RED)
    assert pixels[5, 7].tolist() == list(BLUE)


def test_grey_and_rgba_models_get_their_channels(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    half_red_half_blue().save(path)
    assert read_images([path, path], (32, 32, 1)).shape == (2, 32, 32, 1)
    assert read_images([path], (32, 32, 4))[0, 0, 0].tolist() == [*RED, 255]


def test_exif_orientation_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: what is left comes up
    half_red_half_blue().save(path, exif=exif, quality=95)
    (pixels,) = read_images([path], (32, 16, 3))
    assert pixels[2, 8, 0] > 200
    assert pixels[29, 8, 2] > 200


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(path)
    assert read_images([path], (4, 4, 1)).max() == 0x80


def test_a_file_several_files_and_a_folder(tmp_path: Path) -> None:
    names = ["a.png", "b.JPG", "c, d.png"]
    for name in names:
        half_red_half_blue().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    a, b, comma = (tmp_path / name for name in names)
    assert find_images(str(a)) == [a]
    assert find_images(f"{b}, {a}") == [b, a]
    assert find_images(str(comma)) == [comma]
    assert find_images(str(tmp_path)) == [a, b, comma]


def refused(argument: str) -> str:
    with pytest.raises(UserError) as caught:
        read_images(find_images(argument), (32, 32, 3))
    return caught.value.message


def test_what_is_no_image_is_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "cat.png"
    text.write_text("meow")
    assert refused(str(text)) == (
        f"{text} is not an image: expected a file that Pillow can open, such as .png or .jpg."
    )
    assert refused(str(tmp_path / "dog.png")) == (
        f"There is no image {tmp_path / 'dog.png'}: expected a file, several separated by commas, "
        "or a folder."
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(str(empty)) == (
        f"The folder {empty} holds no image: expected files such as .png or .jpg."
    )
    for nothing in ("", ",", " "):
        assert refused(nothing) == (
            "input names no image: expected a file, several separated by commas, or a folder. "
            f"Received: input={nothing}"
        )


def test_a_truncated_image_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert refused(str(path)).startswith(f"The image {path} cannot be read: ")


@pytest.mark.parametrize(("mode", "message"), [("F", "32-bit floats"), ("I", "32-bit integers")])
def test_pixels_of_unknown_range_are_refused(mode: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "deep.tiff"
    Image.new(mode, (4, 4)).save(file)
    with pytest.raises(UserError, match=message):
        read_images([file], (4, 4, 3))


def test_a_folder_gives_its_image_files_only(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "directory.png").mkdir()
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.4")
    assert [file.name for file in find_images(str(tmp_path))] == ["a.png"]
