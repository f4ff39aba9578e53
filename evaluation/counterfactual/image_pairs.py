"""The user's pairs of images (`data.image_pairs`), read for a model to be asked about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.image_pairs import missing_image, read_image_pairs

_KEY = "evaluation.counterfactual.image_pairs"


def read_images_of_pairs(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the encoded images of both columns.

    Args:
        path: CSV file, as `data.image_pairs.read_image_pairs` takes it.

    Returns:
        Two object arrays of `bytes`, row by row; and int (rows,), the example that each is of: the
        first row of the same original, which may have several counterparts.

    Raises:
        SettingError: If the file, a column or an image is missing, or there is no pair.
    """
    pairs = read_image_pairs(_KEY, path)
    images = np.empty((2, len(pairs)), object)
    for place, pair in enumerate(pairs):
        for column, file in enumerate((pair.original, pair.counterfactual)):
            try:
                images[column, place] = file.read_bytes()
            except OSError as error:
                raise missing_image(_KEY, path, pair, file, error) from error
    first: dict[Path, int] = {}
    examples = [first.setdefault(pair.original, place) for place, pair in enumerate(pairs)]
    return images[0], images[1], np.array(examples)
