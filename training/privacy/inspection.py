"""Looks a model over before its first private step: what is declared, and what is measured.

`problems_of` lists everything that keeps a model from being private, all at once. `probe` runs
the engine on a few examples and compares it with the naive per-example gradient, which finds what
no declaration shows: layers that mix examples, rows that are not examples, a wrong rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError
from training.privacy.clipping import PerExampleLoss, clipped_gradient_sum
from training.privacy.coupling import sizes_apart
from training.privacy.loss_inspection import problems_of_loss
from training.privacy.problems import Problem, refuse
from training.privacy.repeated_draws import refuse_unrepeatable, same_draws, without_randomness
from training.privacy.sites import Sites, find_sites
from training.privacy.survey import examine

_SIZE = 3
# Draws of a random model's numbers that are tried, one after the other.
_DRAWS_TRIED = 5
# float32 sums in another order differ by less; half precision rounds at 2^-8.
_TOLERANCES = {"float32": 1e-3, "float64": 1e-3, "bfloat16": 0.1, "float16": 0.05}


def problems_of(model: keras.Model, loss: PerExampleLoss | None = None) -> list[Problem]:
    """Everything that keeps `model` from being trained privately; empty if nothing does.

    Traces the model once and runs nothing. Sizes that the model leaves open are taken as 8.

    Args:
        model: A built model whose inputs are known.
        loss: If given, checked for one loss an example.
    """
    inputs = tf.nest.map_structure(_specification, inputs_of(model))
    try:
        sites = find_sites(model)
    except UserError as error:
        return [Problem("model", str(error), "See above.")]
    fixed = any(x.shape[0] for x in tf.nest.flatten(inputs_of(model)))
    size = _SIZE if fixed else next(sizes_apart(model, inputs))
    problems = examine(model, inputs, size, sites).problems
    if loss is not None and not problems:
        problems = _problems_with_class_labels(model, loss)
    return problems


def inputs_of(model: keras.Model) -> Any:
    """The symbolic inputs, nested as the model takes them."""
    # A sequential model keeps its graph in a model inside, and has no input of its own.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _specification(tensor: Any) -> tf.TensorSpec:
    shape = [_SIZE, *(8 if size is None else size for size in tensor.shape[1:])]
    return tf.TensorSpec(shape, tensor.dtype)


def _problems_with_class_labels(model: keras.Model, loss: PerExampleLoss) -> list[Problem]:
    logits = tf.zeros([_SIZE, *model.outputs[0].shape[1:]])
    try:
        shape = loss(tf.zeros([_SIZE], tf.int32), logits).shape
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        return [Problem("loss", f"fails on class labels ({error})", "Take labels and logits.")]
    if shape != [_SIZE]:
        what = f"gives shape {shape} for {_SIZE} examples, not one number an example"
        return [Problem("loss", what, "Do not reduce over the batch (reduction='none').")]
    return []


def probe(
    model: keras.Model,
    loss: PerExampleLoss,
    batch: dict[str, Any],
    sites: Sites | None = None,
    measured: Sequence[keras.Variable] = (),
) -> None:
    """Checks on real examples that the engine's gradients are those of each example alone.

    Dropout and noise are set to zero meanwhile, and each example is run alone. Where the model
    still draws random numbers (augmentation), "alone" is among copies of itself, under the same
    draws (what is drawn for a row depends on the batch's shape), for several draws and all rows.

    Outputs are also compared with the weights moved a little: where a weight starts at zero (a
    gate, a bias, a low-rank addition), what lies behind it cannot be seen yet.

    Args:
        model: The model.
        loss: Per-example loss.
        batch: A Batch; its first (at most four) examples are compared.
        sites: From `find_sites(model)`.
        measured: Variables that training examples change bare (those of metrics), which the loss
            must not read.

    Raises:
        UserError: If the loss is not one of each example alone (`loss_inspection`), an example's
            output depends on the others or on its row, or the engine's norm is not that of the
            example's own gradient.
    """
    sites = find_sites(model) if sites is None else sites
    few = tf.nest.map_structure(
        lambda x: tf.convert_to_tensor(x)[:4],
        {key: batch[key] for key in ("inputs", "labels")},
    )
    size = tf.nest.flatten(few["labels"])[0].shape[0]  # labels may come with weights
    everyone = tf.ones([size], tf.bool)

    @tf.function(autograph=False)
    def engine(inputs: Any, labels: tf.Tensor) -> tuple[tf.Tensor, Any]:
        clipped = clipped_gradient_sum(
            model, loss, {"inputs": inputs, "labels": labels, "mask": everyone}, 1.0, sites
        )
        return clipped.norms, clipped.logits

    @tf.function(autograph=False)
    def naive(inputs: Any, labels: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, list]:
        values = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            logits = tf.nest.map_structure(
                lambda x: tf.cast(x, tf.float32), model(inputs, training=True)
            )
            total = loss(labels, logits)[row]
        found = tape.gradient(total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]
        return tf.linalg.global_norm(dense), [x[row] for x in tf.nest.flatten(logits)]

    @tf.function(autograph=False)
    def elsewhere(inputs: Any, values: list[tf.Tensor]) -> list[tf.Tensor]:
        state = list(zip(model.trainable_variables, values, strict=True))
        with keras.StatelessScope(state_mapping=state):  # which draws the same numbers every time
            return [tf.cast(x, tf.float32) for x in tf.nest.flatten(model(inputs, training=True))]

    def alone(i: int, is_random: bool) -> tuple[dict[str, Any], int]:
        """A batch in which example `i` is alone, and its row there."""
        rows, row = ([i] * size, i) if is_random else ([i], 0)
        return tf.nest.map_structure(lambda x: tf.gather(x, rows), few), row

    def compare_moved(is_random: bool) -> None:
        values = _moved(model)
        together = _run(elsewhere, few["inputs"], values)
        for i in range(size):
            one, row = alone(i, is_random)
            own = [x[row] for x in _run(elsewhere, one["inputs"], values)]
            _compare_outputs([x[i] for x in together], own, tolerance)

    def compare(norms: tf.Tensor, logits: Any, i: int, is_random: bool) -> None:
        one, row = alone(i, is_random)
        own_norm, own_logits = _run(naive, one["inputs"], one["labels"], tf.constant(row))
        _compare_outputs([x[i] for x in tf.nest.flatten(logits)], own_logits, tolerance)
        _compare(
            norms[i].numpy(),
            own_norm.numpy(),
            tolerance,
            "an example's gradient norm is not that of the example alone",
        )

    tolerance = _tolerance(model)
    with without_randomness(model), same_draws(model) as draws:
        norms, logits = _run(engine, few["inputs"], few["labels"])
        refuse_unrepeatable(engine.get_concrete_function(few["inputs"], few["labels"]).graph)
        refuse(problems_of_loss(model, loss, few["labels"], logits, measured))
        if not draws.again():
            for i in range(size):
                compare(norms, logits, i, is_random=False)
            compare_moved(is_random=False)
            return
        # A random permutation, say, leaves some rows where they are, some of the time.
        for _ in range(_DRAWS_TRIED):
            norms, logits = _run(engine, few["inputs"], few["labels"])
            moved = draws.state()
            for i in range(size):
                draws.again()
                compare(norms, logits, i, is_random=True)
            draws.start_from(moved)
            draws.again()
        compare_moved(is_random=True)


def _run(function: Any, *arguments: Any) -> Any:
    """Runs a `tf.function`, traced once for each shape of its arguments.

    Each model that is probed has functions of its own, which must be traced. Asked for by shape,
    that is what it looks like to TensorFlow, and not one function that is traced over and over.
    """
    return function.get_concrete_function(*arguments)(*arguments)


def _moved(model: keras.Model) -> list[tf.Tensor]:
    """Values of the trainable variables a little away, by as much as a usual initial value."""
    values = []
    for i, variable in enumerate(model.trainable_variables):
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 10.0
        step = tf.random.stateless_normal(variable.shape, [i, 0]) / np.sqrt(fan_in)
        values.append(tf.convert_to_tensor(variable.value) + tf.cast(step, variable.dtype))
    return values


def _compare_outputs(together: list[tf.Tensor], own: list[tf.Tensor], tolerance: float) -> None:
    for output, own_output in zip(together, own, strict=True):
        _compare(
            output.numpy(),
            own_output.numpy(),
            tolerance,
            "the output for an example changes with its row or the other examples of its batch: a "
            "layer mixes examples, or takes another axis for the batch",
        )


def _compare(found: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    scale = max(float(np.max(np.abs(expected))), 1e-6)
    finite = np.isfinite(found) & np.isfinite(expected)
    difference = np.where(finite, found - expected, 0.0)
    if np.max(np.abs(difference)) > tolerance * scale:
        raise UserError(
            f"model: cannot be trained privately: {what}. Received: "
            f"{np.array2string(found, precision=6)} in a batch, "
            f"{np.array2string(expected, precision=6)} alone."
        )


def _tolerance(model: keras.Model) -> float:
    return max(_TOLERANCES.get(layer.compute_dtype, 1e-3) for layer in model._flatten_layers())
