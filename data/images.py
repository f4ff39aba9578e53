"""Encoded images: as files on disk, and whether they can be decoded.

Promises: what passes `undecodable` is decoded by TensorFlow later, because TensorFlow decoded it
here; reading is lazy, so a folder larger than memory can be used. Decoding all of a large folder at
every start takes long: `of_no_image_format` reads the first bytes alone, refuses nothing that
TensorFlow would decode, and leaves the rest to `CheckedImageColumn`, which has every image decoded
the first time that it is read, so that a damaged one is named when a batch meets it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from configs.schema.errors import UserError
from data.columns import Column, unselected

_IMAGES_PER_TASK = 32
_TASKS_PER_WORKER = 4
# How files begin that TensorFlow decodes: PNG, JPEG, GIF, BMP, WebP, JPEG XL (bare, contained).
_BEGINNINGS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"RIFF",
    b"\xff\x0a",
    b"\x00\x00\x00\x0cJXL ",
)
_LONGEST_BEGINNING = max(map(len, _BEGINNINGS))
_NO_IMAGE = "not a readable PNG, JPEG, GIF or BMP image"


@dataclass(frozen=True)
class ImageFileColumn:
    """Encoded images, each the bytes of a file that is read when asked for.

    Args:
        paths: One file per example; as text, which takes less memory than a `Path`.
    """

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> np.ndarray:
        images = np.empty(len(indices), dtype=object)
        images[:] = [_content(self.paths[index]) for index in indices]
        return images

    def beginning(self, index: int) -> bytes:
        """The first bytes of a file, by which its format is known."""
        return _content(self.paths[index], _LONGEST_BEGINNING)


@dataclass(frozen=True)
class CheckedImageColumn(ImageFileColumn):
    """Image files that were not all decoded beforehand.

    Each is decoded for a test the first time it is read; of what was tested one byte is kept.
    """

    tested: np.ndarray = field(init=False)  # bool (n,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tested", np.zeros(len(self), bool))

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images at `indices`, int64 (k,), in that order.

        Raises:
            UserError: One cannot be read or decoded; the line names it.
        """
        images = np.empty(len(indices), dtype=object)
        for row, index in enumerate(indices):
            path = self.paths[index]
            try:
                images[row] = _content(path)
            except OSError as error:
                raise _met_in_training(path, f"cannot be read ({error.strerror})") from error
            if not self.tested[index]:
                problem = _decoding_problem(images[row])
                if problem:
                    raise _met_in_training(path, problem)
                self.tested[index] = True
        return images


def _met_in_training(path: str, problem: str) -> UserError:
    return UserError(
        f"{path}: {problem}. Mend or remove it, and begin a new run; data.cache: memory finds "
        "damaged images before training"
    )


def _content(path: str, most: int = -1) -> bytes:
    with open(path, "rb") as file:
        return file.read(most)


def undecodable(images: Column) -> Iterator[tuple[int, str]]:
    """Decodes every image, in parallel, and yields those that fail, in order.

    Args:
        images: Encoded images (PNG, JPEG, GIF, BMP).

    Yields:
        (position, what is wrong with it).
    """
    return problems_found(len(images), lambda position: _problem(images, position))


def of_no_image_format(images: Column) -> Iterator[tuple[int, str]]:
    """Reads the first bytes of every file, in parallel, and yields those that no image has.

    Args:
        images: Image files, or some of them (`SelectedColumn`).

    Yields:
        (position, what is wrong with it), in order.
    """
    files, selection = unselected(images)
    if not isinstance(files, ImageFileColumn):
        raise TypeError(f"Expected image files. Received: {type(files).__name__}")

    def problem(position: int) -> str:
        try:
            beginning = files.beginning(selection[position])
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return "" if beginning.startswith(_BEGINNINGS) else _NO_IMAGE

    return problems_found(len(selection), problem)


def problems_found(count: int, problem_of: Callable[[int], str]) -> Iterator[tuple[int, str]]:
    """Asks for the problems of `count` positions, in parallel, and yields those there are."""

    def check(first: int) -> list[tuple[int, str]]:
        positions = range(first, min(first + _IMAGES_PER_TASK, count))
        problems = ((position, problem_of(position)) for position in positions)
        return [(position, problem) for position, problem in problems if problem]

    workers = os.cpu_count() or 1
    # Window by window: a consumer that stops at the first problem leaves little work queued.
    window = workers * _TASKS_PER_WORKER * _IMAGES_PER_TASK
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, count, window):
            stop = min(start + window, count)
            for problems in pool.map(check, range(start, stop, _IMAGES_PER_TASK)):
                yield from problems


def _problem(images: Column, position: int) -> str:
    try:
        return _decoding_problem(images.take(np.array([position]))[0])
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _decoding_problem(image: bytes) -> str:
    try:
        size_of(image)
    except ValueError as problem:
        return str(problem)
    return ""


def size_of(image: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, which is decoded for it.

    Raises:
        ValueError: If it cannot be decoded.
    """
    import tensorflow as tf

    try:
        # A GPU would be asked to hold every image of the folder.
        with tf.device("CPU"):
            height, width, _ = tf.io.decode_image(image, expand_animations=False).shape
    except tf.errors.OpError as error:
        raise ValueError(f"{_NO_IMAGE} ({_first_line(error.message)})") from error
    return height, width


def _first_line(message: str) -> str:
    # TensorFlow wraps the message of an eager op in "{{function_node ...}} ... [Op:Name]".
    return message.rsplit("}}", 1)[-1].split("[Op:")[0].strip().splitlines()[0]
