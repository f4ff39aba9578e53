"""Whose gradients were cut: shares and lengths by group, from counts that training kept.

Gets plain arrays: counts by group and by bin of the relative norm (the gradient's norm over the
norm beyond which it is cut, so that above 1 is cut). They are bare counts of training examples, or
noisy ones that a private run released; a section says which, and every sink marks bare ones.

From noisy counts the share is a ratio of two noisy numbers, with a standard error that the known
noise gives to first order; where a group is hardly larger than the noise it is undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from evaluation.clipping_plot import plot_clipping
from evaluation.coverage import NOT_COVERED
from evaluation.event_writer import event_writer, picture_is_due
from evaluation.plots import to_image

_QUANTILES = (0.1, 0.5, 0.9)
# On what a private run paid for; `NOT_COVERED` on what it did not.
_COVERED = "released, covered by ε"
# Groups below so many standard deviations of their own size's noise have no share.
_FEWEST_DEVIATIONS = 6.0


def measure_clipping(
    group_names: Sequence[str], edges: np.ndarray, counts: np.ndarray, noise_stddev: float
) -> dict[str, Any]:
    """Returns the shares and lengths of each group.

    Args:
        group_names: The groups, in the order of `counts`.
        edges: float (bins + 1,), growing; one of them is 1.
        counts: float (groups, bins), examples; noisy ones may be below zero.
        noise_stddev: Standard deviation of the noise on each count; 0 where they are bare.

    Returns:
        `noise_stddev`, and `groups`: name -> `examples`, `clipped_share`, `standard_error` (of the
        share, by the noise alone), `relative_norm` (quantile -> value) and `reason`, which says
        why the others are None.
    """
    cut = np.asarray(edges)[:-1] >= 1.0
    groups: dict[str, dict[str, Any]] = {}
    for name, of_group in zip(group_names, counts, strict=True):
        examples = float(of_group.sum())
        doubt = noise_stddev * np.sqrt(len(of_group))
        if examples <= 0 or examples < _FEWEST_DEVIATIONS * doubt:
            reason = (
                "nobody was drawn" if not noise_stddev else f"too few for the noise ({doubt:.0f})"
            )
            groups[name] = {
                "examples": examples,
                "clipped_share": None,
                "standard_error": None,
                "relative_norm": None,
                "reason": reason,
            }
            continue
        share = float(of_group[cut].sum()) / examples
        weights = np.where(
            cut, 1.0 - share, share
        )  # derivative of the share by each count, times n
        groups[name] = {
            "examples": examples,
            "clipped_share": min(1.0, max(0.0, share)),
            "standard_error": noise_stddev * float(np.linalg.norm(weights)) / examples,
            "relative_norm": _quantiles(of_group / examples, edges),
            "reason": None,
        }
    return {"noise_stddev": noise_stddev, "groups": groups}


def clipping_section(
    attribute: str,
    group_names: Sequence[str],
    edges: np.ndarray,
    epoch: tuple[np.ndarray, float],
    run: tuple[np.ndarray, float],
    *,
    covered: bool,
) -> dict[str, Any]:
    """The section of an evaluation.

    Args:
        attribute: The group attribute.
        group_names: Its groups.
        edges: As `measure_clipping`.
        epoch: Counts of the last epoch, and the noise on each.
        run: Counts since the run began, likewise.
        covered: Whether the privacy guarantee covers them.

    Returns:
        `attribute`, `covered_by_privacy_guarantee`, and `epoch` and `run` from
        `measure_clipping`.
    """
    return {
        "attribute": attribute,
        "covered_by_privacy_guarantee": covered,
        "epoch": measure_clipping(group_names, edges, *epoch),
        "run": measure_clipping(group_names, edges, *run),
    }


class ClippingCallback(keras.callbacks.Callback):
    """Shows at the end of each epoch who was clipped in it, and in the run so far.

    Args:
        read: Returns the current `clipping_section`.
        log_dir: TensorBoard log directory of the run.
    """

    def __init__(self, read: Callable[[], Mapping[str, Any]], log_dir: str | Path):
        super().__init__()
        self._read = read
        self._log_dir = log_dir
        self._writer: Any = None
        self._history: list[tuple[int, Mapping[str, Any]]] = []
        self._undrawn: Mapping[str, Any] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._writer = event_writer(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        section = self._read()
        self._history.append((epoch + 1, section["epoch"]["groups"]))
        is_covered = section["covered_by_privacy_guarantee"]
        with self._writer.as_default(step=epoch + 1):
            for name, group in section["epoch"]["groups"].items():
                if group["clipped_share"] is not None:
                    tf.summary.scalar(
                        # A card cuts long names off at the end: what must be read comes first.
                        f"3 fairness/6 {'' if is_covered else 'not '}covered by ε: {name} clipped",
                        group["clipped_share"],
                        description=_described(group, is_covered),
                    )
        self._undrawn = section
        if picture_is_due(epoch, self.params):
            self._draw()
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # Training that was stopped early ends where no picture was due.
        self._draw()
        self._writer.flush()

    def _draw(self) -> None:
        if self._undrawn is None:
            return
        attribute = self._undrawn["attribute"]
        is_covered = self._undrawn["covered_by_privacy_guarantee"]
        mark = _COVERED if is_covered else NOT_COVERED
        run = self._undrawn["run"]["groups"]
        picture = to_image(plot_clipping(attribute, self._history, run, covered=is_covered))
        with self._writer.as_default(step=self._history[-1][0]):
            tf.summary.image(f"1 overview/5 who is clipped, by {attribute} ({mark})", picture[None])
        self._undrawn = None


def _described(group: Mapping[str, Any], is_covered: bool) -> str:
    what = "Share of the group's examples drawn in this epoch whose gradient was cut"
    if is_covered:
        error = group["standard_error"]
        return f"{what}; from noisy counts that ε pays for, standard error {error:.2g}."
    return (
        f"{what}; counted from training examples without noise: the privacy guarantee does not "
        "cover it. Look, but do not publish."
    )


def _quantiles(shares: np.ndarray, edges: np.ndarray) -> dict[str, float]:
    """Interpolated between edges on their logarithm; noise is evened out to a growing curve."""
    below = np.concatenate([[0.0], np.cumsum(shares)])
    below = np.clip(np.maximum.accumulate(below), 0.0, 1.0)
    return {f"{q:g}": float(2.0 ** np.interp(q, below, np.log2(edges))) for q in _QUANTILES}
