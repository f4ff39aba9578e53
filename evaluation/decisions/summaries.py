"""What a decision rule changed, in TensorBoard beside the curves of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from evaluation.decisions.plot import plot_decisions
from evaluation.event_writer import event_writer
from evaluation.plots import to_image

_SHOWN = (
    "accuracy",
    "worst_group_accuracy",
    "demographic_parity_difference",
    "equalized_odds_difference",
)


def write_decisions(section: Mapping[str, Any], log_dir: str | Path, step: int) -> None:
    """Writes a picture and every headline number before and after, tagged `5 decisions/...`.

    Args:
        section: From `measure_decisions`.
        log_dir: TensorBoard log directory of the run.
        step: Where on the axis of epochs they are shown.
    """
    writer = event_writer(log_dir)
    of = f"{section['split']} split; {section['measured']}"
    with writer.as_default(step=step):
        for order, name in enumerate(_SHOWN, start=1):
            for when, meaning in (("before", "by the largest score"), ("after", "by the rule")):
                value = (section[when] or {}).get(name)
                if value is not None:
                    tag = f"5 decisions/{order} {name.replace('_', ' ')} {when}"
                    tf.summary.scalar(tag, value, description=f"{meaning}; {of}")
        if section["rule"]["attribute"] is not None and section["after"] is not None:
            picture = to_image(plot_decisions(section))
            tf.summary.image("5 decisions/0 before and after", picture[None], description=of)
        if "abstained" in section:
            share = section["abstained"]["share"]
            tf.summary.scalar("5 decisions/5 share not answered", share, description=of)
    writer.flush()
