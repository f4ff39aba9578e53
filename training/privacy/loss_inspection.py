"""Looks over a loss apart from its model: whether it keeps to each example, and to its arguments.

A loss sees the whole batch and may read or write any variable. What of that would void epsilon, or
lose a gradient, is read off its graph, traced once and never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from training.privacy.book_keeping import PerExampleLoss
from training.privacy.coupling import (
    Coupling,
    backward_pass,
    couplings,
    found_again,
    sizes_apart,
)
from training.privacy.problems import Problem
from training.privacy.state_writes import writes_in


def problems_of_loss(
    model: keras.Model,
    loss: PerExampleLoss,
    labels: Any,
    logits: Any,
    measured: Sequence[keras.Variable] = (),
) -> list[Problem]:
    """Everything that keeps a loss from being one of each example alone; empty if nothing does.

    Args:
        model: Whose outputs the loss is of.
        loss: Per-example loss.
        labels: As the loss takes them, a nest of tensors or specifications (batch, ...).
        logits: Likewise.
        measured: Variables that training examples change bare: those of metrics.
    """
    sizes = sizes_apart(model, (labels, logits))
    first = _traced(model, loss, labels, logits, measured, next(sizes))
    if not first.couplings:
        return first.problems
    second = _traced(model, loss, labels, logits, measured, next(sizes))
    found = found_again(first.couplings, second.couplings)
    return [*first.problems, *(coupling.problem("loss") for coupling in found)]


@dataclass(frozen=True)
class _Found:
    """What one trace shows."""

    problems: list[Problem] = field(default_factory=list)
    couplings: list[Coupling] = field(default_factory=list)


def _traced(
    model: keras.Model,
    loss: PerExampleLoss,
    labels: Any,
    logits: Any,
    measured: Sequence[keras.Variable],
    size: int,
) -> _Found:
    found = _Found()

    @tf.function(autograph=False)
    def trace(labels: Any, logits: Any) -> tf.Tensor:
        scores = [x for x in tf.nest.flatten(logits) if x.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False) as tape, _Writes() as written:
            tape.watch(scores)
            losses = loss(labels, logits)
        graph = tf.compat.v1.get_default_graph()
        if written.names or any(writes_in(graph)):
            found.problems.append(_KEEPS)
        if _reads(graph, measured):
            found.problems.append(_READS_MEASUREMENTS)
        if _reads(graph, model.trainable_variables):
            found.problems.append(_READS_WEIGHTS)
        examples = [x for x in tf.nest.flatten((labels, logits)) if tf.is_tensor(x)]
        made = [losses, *backward_pass(tape, [losses], scores)]
        found.couplings.extend(couplings(examples, made, size))
        return tf.zeros([])

    def larger(x: Any) -> tf.TensorSpec:
        return tf.TensorSpec([size, *x.shape[1:]], x.dtype)

    trace.get_concrete_function(*tf.nest.map_structure(larger, (labels, logits)))
    return found


_KEEPS = Problem(
    "loss",
    "writes a variable (a running mean, say), so that examples reach later steps unclipped and "
    "without noise",
    "Make what it remembers a constant.",
)
_READS_MEASUREMENTS = Problem(
    "loss",
    "reads a metric, which measures training examples bare",
    "Make it a constant.",
)
_READS_WEIGHTS = Problem(
    "loss",
    "reads a trainable weight of the model, whose gradient the clipped sum would leave out",
    "Use a regularizer of the layer, which is added after the noise; or make it a part of the "
    "model's output.",
)


class _Writes(keras.StatelessScope):
    """Notes what is written to variables of Keras, and keeps it from them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, _ = update
        if variable.name != "seed_generator_state":  # of random numbers
            self.names.append(variable.path)
        super().add_update(update)


def _reads(graph: Any, variables: Sequence[keras.Variable]) -> bool:
    captured = {id(outer) for outer, _ in graph.captures}
    return any(id(variable.value.handle) in captured for variable in variables)
