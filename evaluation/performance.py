"""How good the answers are: loss, accuracy, F1, ROC-AUC, calibration, confusion.

Promises: a pure function of `Predictions`; precision, recall and F1 are scikit-learn's own
report; whatever is undefined for the data at hand is None with a reason, never NaN or a crash.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import classification_report, confusion_matrix, roc_auc_score

from evaluation.predictions import Predictions

CALIBRATION_BINS = 15


def measure_performance(predictions: Predictions) -> dict[str, Any]:
    """Measures how good the answers are over the whole split; of tokens, over all that count.

    Balanced accuracy is the mean recall of the labels that occur, as in scikit-learn. ROC-AUC of
    more than two labels is the one-vs-rest macro average.

    Returns:
        Keys `loss` (mean cross-entropy, nats), `accuracy`, `majority_share` (the accuracy of
        always naming the commonest label), `balanced_accuracy`, `labels` (label -> precision,
        recall, f1, support), `macro` and `weighted` (precision, recall, f1), `roc_auc`,
        `calibration` (see `calibrate`), `confusion_matrix` (rows are the truth, columns the
        answers) and `reasons` (key -> why it is None, or what it leaves out).
    """
    predictions = predictions.events()
    labels, predicted = predictions.labels, predictions.predicted()
    count = len(predictions.label_names)
    report = classification_report(
        labels,
        predicted,
        labels=range(count),
        target_names=[str(index) for index in range(count)],
        output_dict=True,
        zero_division=0,
    )
    confusion = confusion_matrix(labels, predicted, labels=range(count))
    support = confusion.sum(axis=1)
    recall = confusion.diagonal()[support > 0] / support[support > 0]
    measured: dict[str, Any] = {
        "loss": None,
        "accuracy": float((labels == predicted).mean()),
        "majority_share": float(support.max() / support.sum()),
        "balanced_accuracy": float(recall.mean()),
        "labels": {
            name: {**_scores(report[str(index)]), "support": int(support[index])}
            for index, name in enumerate(predictions.label_names)
        },
        "macro": _scores(report["macro avg"]),
        "weighted": _scores(report["weighted avg"]),
        "roc_auc": None,
        "calibration": None,
        "confusion_matrix": confusion.tolist(),
    }
    return {**measured, **_of_probabilities(predictions)}


def _scores(row: dict[str, float]) -> dict[str, float]:
    return {
        "precision": float(row["precision"]),
        "recall": float(row["recall"]),
        "f1": float(row["f1-score"]),
    }


def _of_probabilities(predictions: Predictions) -> dict[str, Any]:
    """What needs probabilities: `loss`, `roc_auc`, `calibration`, and `reasons` for a None."""
    if not predictions.has_finite_logits():
        broken = int((~np.isfinite(predictions.logits)).any(axis=1).sum())
        broken_logits = f"{broken} examples have logits that are not finite numbers"
        return {"reasons": dict.fromkeys(("loss", "roc_auc", "calibration"), broken_logits)}
    log_probabilities = predictions.log_probabilities()
    probabilities = np.exp(log_probabilities)
    rows = np.arange(len(predictions.labels))
    area, reason = _roc_auc(probabilities, predictions.labels)
    return {
        "loss": float(-log_probabilities[rows, predictions.labels].mean()),
        "roc_auc": area,
        "calibration": calibrate(probabilities, predictions.labels),
        "reasons": {} if reason is None else {"roc_auc": reason},
    }


def _roc_auc(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float | None, str | None]:
    """Returns the area, and a remark where it is undefined or leaves labels out."""
    count = probabilities.shape[1]
    present = np.unique(labels)
    if len(present) < 2:
        return None, "only one label occurs in this split"
    if count == 2:
        return float(roc_auc_score(labels, probabilities[:, 1])), None
    areas = [roc_auc_score(labels == index, probabilities[:, index]) for index in present]
    left_out = count - len(present)
    remark = f"{left_out} of {count} labels do not occur in this split and are left out"
    return float(np.mean(areas)), remark if left_out else None


def calibrate(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS
) -> dict[str, Any]:
    r"""Expected calibration error and the bins of a reliability diagram.

    Examples fall by confidence (largest probability) into M equal-width bins ((m-1)/M, m/M]:

        ECE = \sum_m |B_m| / n * |accuracy(B_m) - confidence(B_m)|

    Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        probabilities: float (examples, classes), rows summing to 1.
        labels: int (examples,).
        bins: M.

    Returns:
        `ece`, and `bins`: for each its `low`, `high`, `count`, mean `confidence` and `accuracy`
        (both None in an empty bin).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    confidences = np.bincount(which, weights=confidence, minlength=bins)
    corrects = np.bincount(which, weights=correct, minlength=bins)
    return {
        "ece": float(np.abs(corrects - confidences).sum() / len(labels)),
        "bins": [
            {
                "low": m / bins,
                "high": (m + 1) / bins,
                "count": int(counts[m]),
                "confidence": float(confidences[m] / counts[m]) if counts[m] else None,
                "accuracy": float(corrects[m] / counts[m]) if counts[m] else None,
            }
            for m in range(bins)
        ],
    }
