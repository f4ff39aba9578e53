"""An evaluation: everything measured of a model on one split, as plain JSON data.

`evaluate` runs every evaluator of `EVALUATORS`. An evaluator is a pure function
`(Predictions, EvaluationSettings) -> dict`; to add one, add a line to that registry.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.errors import UserError
from configs.schema.evaluation import EvaluationSettings
from evaluation.fairness import measure_fairness
from evaluation.performance import measure_performance
from evaluation.predictions import Predictions

Evaluator = Callable[[Predictions, EvaluationSettings], dict[str, Any]]

EVALUATORS: dict[str, Evaluator] = {
    "performance": lambda predictions, settings: measure_performance(predictions),
    "fairness": measure_fairness,
}

_FORMAT = 2


@dataclass(frozen=True)
class Evaluation:
    """Everything measured of a model on one split.

    Sections are made plain at construction: numpy scalars and arrays become numbers and lists,
    numbers that are not finite become None.

    Attributes:
        split: Name of the split.
        counts: `examples`, `labels`: label -> its examples (or tokens), and `tokens` if they are
            what is labelled.
        performance: See `measure_performance`.
        fairness: See `measure_fairness`.
        privacy: What the caller knows of the guarantee (epsilon, delta ...); None without one.
        efficiency: What the caller knows of cost (seconds, bytes ...).
        counterfactual: See `measure_counterfactuals`; None where nothing was asked for.
        further: Evaluators added to the registry since, by name.
    """

    split: str
    counts: Mapping[str, Any]
    performance: Mapping[str, Any]
    fairness: Mapping[str, Any]
    privacy: Mapping[str, Any] | None = None
    efficiency: Mapping[str, Any] | None = None
    counterfactual: Mapping[str, Any] | None = None
    further: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for section in dataclasses.fields(self):
            object.__setattr__(self, section.name, _plain(getattr(self, section.name)))

    @property
    def covered_by_privacy_guarantee(self) -> bool:
        """False for training examples: their measurements are not private, whatever ε is."""
        return self.split != "train"

    def to_json(self) -> str:
        """Returns strict, indented JSON (no NaN, no Infinity)."""
        content = {
            "format": _FORMAT,
            "covered_by_privacy_guarantee": self.covered_by_privacy_guarantee,
            **{section.name: getattr(self, section.name) for section in dataclasses.fields(self)},
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Reads what `to_json` wrote.

        Raises:
            UserError: If the text is not an evaluation of this format.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"evaluation: not JSON: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise UserError(
                f"evaluation: expected an object with format {_FORMAT}; `sterling evaluate` on the "
                "run's directory measures it anew"
            )
        names = {section.name for section in dataclasses.fields(cls)}
        missing = names - set(content)
        if missing:
            raise UserError(f"evaluation: missing {', '.join(sorted(missing))}")
        return cls(**{name: content[name] for name in names})

    def write(self, path: str | Path) -> None:
        """Writes JSON to `path` atomically: readers see the old file or the new one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from a group
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """Reads the file that `write` wrote.

        Raises:
            UserError: If it is missing or is not an evaluation.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        try:
            return cls.from_json(text)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def evaluate(
    predictions: Predictions,
    settings: EvaluationSettings,
    *,
    privacy: Mapping[str, Any] | None = None,
    efficiency: Mapping[str, Any] | None = None,
    counterfactual: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measures predictions with every registered evaluator.

    Args:
        predictions: Answers over a whole split.
        settings: What is measured, and of whom.
        privacy: Section to carry along.
        efficiency: Section to carry along.
        counterfactual: Section to carry along; it needs the model, not only its predictions.

    Raises:
        SettingError: For an attribute or a positive label that the data do not have.
    """
    sections = {name: measure(predictions, settings) for name, measure in EVALUATORS.items()}
    events = predictions.events()
    sizes = np.bincount(events.labels, minlength=len(predictions.label_names))
    counts = {
        "examples": len(predictions.labels),
        "labels": dict(zip(predictions.label_names, sizes.tolist(), strict=True)),
    }
    if events.example_of is not None:
        counts["tokens"] = len(events.labels)
    return Evaluation(
        split=predictions.split,
        counts=counts,
        performance=sections.pop("performance"),
        fairness=sections.pop("fairness"),
        privacy=privacy,
        efficiency=efficiency,
        counterfactual=counterfactual,
        further=sections,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"expected JSON-able data in an evaluation. Received: {type(value).__name__}")
