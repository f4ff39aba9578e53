"""Who is clipped, from the training step that counts to the callback and the evaluation.

Bare counts of training examples go to TensorBoard and into the run's own evaluation, marked, and
not into what is exported; counts that the privacy budget paid for go everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation import Evaluation
    from training.loop import Loop
    from training.run_directory import RunDirectory
    from training.session import Session


def watch_clipping(loop: Loop, session: Session, run: RunDirectory) -> None:
    """Adds the callback that shows it, where the recipe asks for it."""
    import keras

    from evaluation import ClippingCallback

    if loop.step.watched() is None:
        return
    callback = keras.callbacks.Callback()  # a follower writes nothing
    if session.workers.is_chief:
        callback = ClippingCallback(lambda: section_of_clipping(loop, session) or {}, run.logs)
    loop.callbacks = [*loop.callbacks, callback]


def section_of_clipping(loop: Loop, session: Session) -> dict[str, Any] | None:
    """The section of an evaluation; None where nothing is counted."""
    from evaluation import clipping_section

    found = loop.step.watched()
    if found is None:
        return None
    attribute = found.watch.attribute
    return clipping_section(
        attribute,
        session.dataset.info.groups[attribute],
        found.watch.edges,
        (found.epoch, found.epoch_stddev),
        (found.run, found.run_stddev),
        covered=found.is_covered,
    )


def with_clipping(
    measured: Evaluation, section: dict[str, Any] | None, *, to_publish: bool = False
) -> Evaluation:
    """An evaluation with the section; one `to_publish` without what epsilon does not cover."""
    if section is None or (to_publish and not section["covered_by_privacy_guarantee"]):
        return measured
    return replace(measured, further={**measured.further, "clipping": section})
