"""Pairs of images that differ only in what should not matter; made by the user, named in a CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from configs.schema.errors import SettingError

COLUMNS = ("original", "counterfactual")
_KEY = "evaluation.counterfactual.image_pairs"


def read_image_pairs(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the encoded images of both columns.

    Args:
        path: CSV file with columns `original` and `counterfactual`; paths in it are relative to
            its folder.

    Returns:
        Two object arrays of `bytes`, row by row.

    Raises:
        SettingError: If the file, a column or an image is missing, or there is no pair.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = tuple(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(_KEY, path, f"a CSV file of image pairs ({error})") from error
    if not set(COLUMNS) <= set(columns):
        raise SettingError(_KEY, path, f"columns {' and '.join(COLUMNS)}, not {list(columns)}")
    if not rows:
        raise SettingError(_KEY, path, "a row for each pair of images; there is none")
    folder = Path(path).parent
    images = []
    for column in COLUMNS:
        encoded = np.empty(len(rows), object)
        for place, row in enumerate(rows):
            try:
                encoded[place] = (folder / (row[column] or "")).read_bytes()
            except OSError as error:
                raise SettingError(
                    _KEY,
                    row[column],
                    f"an image file in row {place + 2} of {path} ({error.strerror})",
                ) from error
        images.append(encoded)
    return images[0], images[1]
