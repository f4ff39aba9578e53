"""Encoded images: as files on disk, and whether they can be decoded.

Promises: what passes `undecodable` is decoded by TensorFlow later, because TensorFlow decoded it
here; reading is lazy, so a folder larger than memory can be used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.columns import Column

_IMAGES_PER_TASK = 32
_TASKS_PER_WORKER = 4


@dataclass(frozen=True)
class ImageFileColumn:
    """Encoded images, each the bytes of a file that is read when asked for.

    Args:
        paths: One file per example.
    """

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> np.ndarray:
        images = np.empty(len(indices), dtype=object)
        images[:] = [self.paths[index].read_bytes() for index in indices]
        return images


def undecodable(images: Column) -> Iterator[tuple[int, str]]:
    """Decodes every image, in parallel, and yields those that fail, in order.

    Args:
        images: Encoded images (PNG, JPEG, GIF, BMP).

    Yields:
        (position, what is wrong with it).
    """

    def check(first: int) -> list[tuple[int, str]]:
        positions = range(first, min(first + _IMAGES_PER_TASK, len(images)))
        problems = ((position, _problem(images, position)) for position in positions)
        return [(position, problem) for position, problem in problems if problem]

    workers = os.cpu_count() or 1
    # Window by window: a consumer that stops at the first problem leaves little work queued.
    window = workers * _TASKS_PER_WORKER * _IMAGES_PER_TASK
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(images), window):
            stop = min(start + window, len(images))
            for problems in pool.map(check, range(start, stop, _IMAGES_PER_TASK)):
                yield from problems


def _problem(images: Column, position: int) -> str:
    import tensorflow as tf

    try:
        # A GPU would be asked to hold every image of the folder.
        with tf.device("CPU"):
            tf.io.decode_image(images.take(np.array([position]))[0], expand_animations=False)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except tf.errors.OpError as error:
        return f"not a readable PNG, JPEG, GIF or BMP image ({_first_line(error.message)})"
    return ""


def _first_line(message: str) -> str:
    # TensorFlow wraps the message of an eager op in "{{function_node ...}} ... [Op:Name]".
    return message.rsplit("}}", 1)[-1].split("[Op:")[0].strip().splitlines()[0]
