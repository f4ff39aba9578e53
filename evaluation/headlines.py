"""An evaluation's headline numbers: where TensorBoard shows each, and what `logs` calls it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evaluation.coverage import NOT_COVERED
from evaluation.fairness.definitions import GAPS
from evaluation.measurements import Evaluation


@dataclass(frozen=True)
class Headline:
    """One number.

    Attributes:
        tag: TensorBoard tag; numbered, because TensorBoard sorts by it.
        value: None where it is undefined for the data at hand.
        description: What it is, for the card's tool tip.
        log: Key in Keras's `logs`; None keeps it out.
    """

    tag: str
    value: float | None
    description: str = ""
    log: str | None = None


def headlines(evaluation: Evaluation) -> list[Headline]:
    """Returns the headline numbers in the order in which they are shown.

    The keys in `logs` without an attribute's name (`val_demographic_parity_difference`) are the
    worst over attributes.
    """
    prefix = "val" if evaluation.split == "validation" else evaluation.split
    mark = "" if evaluation.covered_by_privacy_guarantee else f" ({NOT_COVERED})"
    return [
        Headline(
            f"{headline.tag}{mark}",
            headline.value,
            headline.description,
            None if headline.log is None else f"{prefix}_{headline.log}",
        )
        for headline in (*_accuracy(evaluation), *_fairness(evaluation))
    ]


def _accuracy(evaluation: Evaluation) -> Iterator[Headline]:
    measured = evaluation.performance
    calibration = measured["calibration"] or {"ece": None}
    of = f"{evaluation.split} split, {evaluation.counts['examples']:,} examples"
    baseline = f"{measured['majority_share']:.3f} by always naming the commonest label"
    yield Headline(
        "1 overview/1 accuracy", measured["accuracy"], f"{of}; {baseline}", log="accuracy"
    )
    yield Headline("2 accuracy/loss", measured["loss"], f"mean cross-entropy; {of}", log="loss")
    yield Headline(
        "2 accuracy/balanced accuracy",
        measured["balanced_accuracy"],
        f"mean recall over labels; {of}",
        log="balanced_accuracy",
    )
    yield Headline("2 accuracy/F1 macro", measured["macro"]["f1"], of, log="f1_macro")
    yield Headline("2 accuracy/F1 weighted", measured["weighted"]["f1"], of)
    yield Headline("2 accuracy/ROC-AUC", measured["roc_auc"], of, log="roc_auc")
    yield Headline("2 accuracy/calibration error", calibration["ece"], f"ECE, 15 bins; {of}")


def _fairness(evaluation: Evaluation) -> Iterator[Headline]:
    compared = evaluation.fairness["attributes"]
    for gap, worst_tag in _WORST_TAGS.items():
        values = [c["gaps"][gap]["value"] for c in compared.values()]
        defined = [value for value in values if value is not None]
        if compared:
            meaning = f"The largest over attributes and intersections. {GAPS[gap].meaning}"
            yield Headline(worst_tag, max(defined) if defined else None, meaning, log=gap)
    for order, gap in enumerate(_WATCHED, start=4):
        for attribute, comparison in compared.items():
            # Ratios and intersections would make the progress bar too long to read.
            logged = gap in _WORST_TAGS and len(comparison["of"]) == 1
            yield Headline(
                f"3 fairness/{order} {gap.replace('_', ' ')} by {attribute}",
                comparison["gaps"][gap]["value"],
                GAPS[gap].meaning,
                log=f"{gap}_{attribute}" if logged else None,
            )


_WORST_TAGS = {
    "demographic_parity_difference": "1 overview/3 largest selection gap",
    "equalized_odds_difference": "3 fairness/5 equalized odds difference largest",
}
_WATCHED = (
    "demographic_parity_difference",
    "equalized_odds_difference",
    "demographic_parity_ratio",
    "equalized_odds_ratio",
    "predictive_parity_difference",
    "accuracy_difference",
)
