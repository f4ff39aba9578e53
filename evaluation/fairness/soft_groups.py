"""Groups that are inferred rather than known: probabilities read from files.

A name or an address may say with which probability a person belongs to a group. Counting each
person in every group by that probability estimates the groups' rates without ever deciding who
belongs where; thresholding the probabilities first would be biased (Chen, Kallus, Mao, Svacha,
Udell 2019). The estimate is exact where the label and the answer are independent of the true group
given what membership was inferred from; otherwise it carries a bias that no interval here shows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from configs.schema.errors import SettingError
from configs.schema.evaluation import EvaluationSettings
from evaluation.predictions import Predictions, require_shares


def with_soft_groups(predictions: Predictions, settings: EvaluationSettings) -> Predictions:
    """Adds the inferred groups that the settings name, each from its file.

    Args:
        predictions: Answers over a whole split.
        settings: With the files.

    Raises:
        SettingError: If a file cannot be read, or has not one row for each example.
        UserError: If its rows are not probabilities.
    """
    shares: dict[str, np.ndarray] = dict(predictions.soft_groups)
    names: dict[str, tuple[str, ...]] = dict(predictions.group_names)
    examples = int(predictions.ids.max()) + 1
    for attribute, path in settings.soft_groups.items():
        table = _table(attribute, path, predictions.split, examples, predictions.groups)
        shares[attribute] = table.to_numpy(np.float64)[predictions.ids]
        names[attribute] = tuple(str(column) for column in table.columns)
    return replace(predictions, soft_groups=shares, group_names=names) if shares else predictions


def check_soft_groups(
    paths: Mapping[str, str], split: str, examples: int, known: Collection[str]
) -> None:
    """Refuses files that do not fit the data, before anything has been paid for.

    Args:
        paths: Attribute -> path, as in the settings.
        split: Name of the split.
        examples: How many it has.
        known: The group attributes that the data have.

    Raises:
        SettingError: As `with_soft_groups`.
        UserError: Likewise.
    """
    for attribute, path in paths.items():
        table = _table(attribute, path, split, examples, known)
        require_shares(attribute, table.to_numpy(np.float64), split)


def _table(
    attribute: str, path: str, split: str, examples: int, known: Collection[str]
) -> pd.DataFrame:
    key = f"evaluation.soft_groups.{attribute}"
    if attribute in known:
        raise SettingError(key, path, "an attribute that the data do not hold already")
    table = _read(key, path.replace("{split}", split))
    # Rows too many are as wrong as too few: nobody could say whose they are.
    if len(table) != examples:
        raise SettingError(
            key,
            path,
            f"a row for each of the {examples} examples of the {split} split and no others (what "
            f"data.limit and data.on_error leave out has none), not {len(table)}",
        )
    return table


def _read(key: str, path: str) -> pd.DataFrame:
    try:
        return pd.read_csv(Path(path), dtype=np.float64)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise SettingError(
            key, path, f"a CSV file of probabilities, a column per group ({error})"
        ) from error
