"""Pairs of images that differ only in what should not matter; made by the user, named in a CSV.

Evaluation asks with them whether answers change (`evaluation.counterfactual`); training shows
models an image's counterpart in its place (`data.counterparts`).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from configs.schema.errors import SettingError

COLUMNS = ("original", "counterfactual")


@dataclass(frozen=True)
class ImagePair:
    """A row of the CSV.

    Attributes:
        row: Its number in the file, the header being 1.
        original: File of the image.
        counterfactual: File of the image that it is paired with.
    """

    row: int
    original: Path
    counterfactual: Path


def read_image_pairs(key: str, path: str) -> list[ImagePair]:
    """Reads the names of both columns; no image.

    Args:
        key: Name of the setting, for errors.
        path: CSV file with columns `original` and `counterfactual`; paths in it are relative to
            its folder.

    Raises:
        SettingError: If the file or a column is missing, or there is no pair.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = tuple(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(key, path, f"a CSV file of image pairs ({error})") from error
    if not set(COLUMNS) <= set(columns):
        raise SettingError(key, path, f"columns {' and '.join(COLUMNS)}, not {list(columns)}")
    if not rows:
        raise SettingError(key, path, "a row for each pair of images; there is none")
    folder = Path(path).parent
    return [
        ImagePair(number, *(folder / (row[column] or "") for column in COLUMNS))
        for number, row in enumerate(rows, start=2)
    ]


def missing_image(
    key: str, path: str, pair: ImagePair, image: Path, error: OSError
) -> SettingError:
    """What to raise where one of a pair's images cannot be read."""
    return SettingError(
        key, str(image), f"an image file in row {pair.row} of {path} ({error.strerror})"
    )
