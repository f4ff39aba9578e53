"""Groups that are inferred rather than known: probabilities read from files.

A name or an address may say with which probability a person belongs to a group. Counting each
person in every group by that probability estimates the groups' rates without ever deciding who
belongs where; thresholding the probabilities first would be biased (Chen, Kallus, Mao, Svacha,
Udell 2019). The estimate is exact where the label and the answer are independent of the true group
given what membership was inferred from; otherwise it carries a bias that no interval here shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from configs.schema.errors import SettingError
from configs.schema.evaluation import EvaluationSettings
from evaluation.predictions import Predictions


def with_soft_groups(predictions: Predictions, settings: EvaluationSettings) -> Predictions:
    """Adds the inferred groups that the settings name, each from its file.

    Raises:
        SettingError: If a file cannot be read, or has no probability for each example.
        UserError: If its rows are not probabilities.
    """
    shares: dict[str, np.ndarray] = dict(predictions.soft_groups)
    names: dict[str, tuple[str, ...]] = dict(predictions.group_names)
    for attribute, path in settings.soft_groups.items():
        key = f"evaluation.soft_groups.{attribute}"
        if attribute in predictions.groups:
            raise SettingError(key, path, "an attribute that the data do not hold already")
        table = _read(key, path.replace("{split}", predictions.split))
        if len(table) <= int(predictions.ids.max()):
            raise SettingError(
                key,
                path,
                f"a row for each of the {predictions.ids.max() + 1} examples "
                f"of the {predictions.split} split, not {len(table)}",
            )
        shares[attribute] = table.to_numpy(np.float64)[predictions.ids]
        names[attribute] = tuple(str(column) for column in table.columns)
    return replace(predictions, soft_groups=shares, group_names=names) if shares else predictions


def check_soft_groups(paths: Mapping[str, str], split: str) -> None:
    """Refuses files that cannot be read, before anything has been paid for.

    Raises:
        SettingError: If one is missing or holds something else than numbers.
    """
    for attribute, path in paths.items():
        _read(f"evaluation.soft_groups.{attribute}", path.replace("{split}", split))


def _read(key: str, path: str) -> pd.DataFrame:
    try:
        return pd.read_csv(Path(path), dtype=np.float64)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise SettingError(
            key, path, f"a CSV file of probabilities, a column per group ({error})"
        ) from error
