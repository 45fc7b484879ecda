"""Files of images."""

import io
from pathlib import Path

from PIL import Image


def png(value: int, mode: str = "RGB", size: tuple[int, int] = (3, 2)) -> bytes:
    """An image of one colour."""
    file = io.BytesIO()
    Image.new(mode, size, (value, 0, 255) if mode == "RGB" else value).save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """Files below a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


PETS = {
    "train/cat/1.png": png(1),
    "train/cat/2.png": png(2),
    "train/dog/1.png": png(3),
    "val/cat/9.png": png(4),
    "val/dog/9.png": png(5),
    "val/dog/notes.txt": b"not an image",
}
"""A folder of images of two classes."""
