"""Groups that are inferred rather than known: probabilities read from files.

A name or an address may say with which probability a person belongs to a group. Counting each
person in every group by that probability estimates the groups' rates without ever deciding who
belongs where; thresholding the probabilities first would be biased (Chen, Kallus, Mao, Svacha,
Udell 2019). The estimate is exact where the label and the answer are independent of the true group
given what membership was inferred from; otherwise it carries a bias that no interval here shows.

A file has a row per record of the source, in the source's order. So one file serves every split
that is cut from those records, whatever a limit or an unusable record took out: which record an
example was is known (`data.contracts.Origin`), and nobody has to redo the cutting.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from configs.schema.errors import SettingError
from configs.schema.evaluation import EvaluationSettings
from evaluation.predictions import Predictions, require_shares

if TYPE_CHECKING:
    from data.contracts import Origin, Split


def with_soft_groups(
    predictions: Predictions, settings: EvaluationSettings, origin: Origin | None = None
) -> Predictions:
    """Adds the inferred groups that the settings name, each from its file.

    Args:
        predictions: Answers over a whole split.
        settings: With the files.
        origin: Which record each example of the split is; None where the examples are the records.

    Raises:
        SettingError: If a file cannot be read, or has not one row for each record.
        UserError: If its rows are not probabilities.
    """
    shares: dict[str, np.ndarray] = dict(predictions.soft_groups)
    names: dict[str, tuple[str, ...]] = dict(predictions.group_names)
    for attribute, path in settings.soft_groups.items():
        names[attribute], of_examples = _read(
            attribute,
            path,
            predictions.split,
            int(predictions.ids.max()) + 1,
            origin,
            predictions.groups,
        )
        shares[attribute] = of_examples[predictions.ids]
    return replace(predictions, soft_groups=shares, group_names=names) if shares else predictions


def check_soft_groups(paths: Mapping[str, str], split: Split) -> None:
    """Refuses files that do not fit the data, before anything has been paid for.

    Args:
        paths: Attribute -> path, as in the settings.
        split: What will be evaluated.

    Raises:
        SettingError: As `with_soft_groups`.
        UserError: Likewise.
    """
    for attribute, path in paths.items():
        _read(attribute, path, split.name, len(split), split.origin, split.info.groups)


def _read(
    attribute: str,
    path: str,
    split: str,
    examples: int,
    origin: Origin | None,
    known: Collection[str],
) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the groups, and float64 (examples, groups): who is of which, how likely."""
    key = f"evaluation.soft_groups.{attribute}"
    if attribute in known:
        raise SettingError(key, path, "an attribute that the data do not hold already")
    table = _table(key, path.replace("{split}", split if origin is None else origin.split))
    rows = np.arange(examples) if origin is None else origin.records
    records = examples if origin is None else origin.count
    # Rows too many are as wrong as too few: nobody could say whose they are.
    if len(table) != records:
        of = (
            f"examples of the {split} split"
            if origin is None
            else f"records of {origin.source}, which the {split} split is read from"
        )
        raise SettingError(
            key,
            path,
            f"a row for each of the {records} {of}, in their order and no others (what is cut off, "
            f"limited or unusable has one too), not {len(table)}",
        )
    shares = table.to_numpy(np.float64)[rows]
    require_shares(attribute, shares, split, rows)
    return tuple(str(column) for column in table.columns), shares


def _table(key: str, path: str) -> pd.DataFrame:
    try:
        return pd.read_csv(Path(path), dtype=np.float64)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise SettingError(
            key, path, f"a CSV file of probabilities, a column per group ({error})"
        ) from error
