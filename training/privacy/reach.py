"""Whether the backward pass reaches every tap: a layer may run where its tap sees no gradient.

What a layer makes inside a loop (`keras.ops.scan`, `map`), a `tf.function`, a vectorised map or a
function with a gradient of its own (`tf.recompute_grad`, `keras.RematScope`) is a tensor of another
graph, or one that the gradient goes around. Its tap would find no gradient, as the tap of a layer
that the loss does not depend on, and the layer would not train, without a word. So where a tap
looks cut off, its gradient is compared with those of the variables behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from training.privacy.rules import owned_variables
from training.privacy.sites import Sites
from training.privacy.taps import Tap, is_floating, recording


@dataclass(frozen=True)
class Reached:
    """What has a gradient of a model's outputs.

    Attributes:
        tapped: The taps, in call order.
        taps: Whether each one's output has, or rightly has none.
        hidden: Variables that have none where their layer is replayed, though they have one.
        variables: Ids of the trainable variables that have.
    """

    tapped: list[Tap]
    taps: list[bool]
    hidden: list[keras.Variable]
    variables: set[int]


def may_be_hidden(taps: Sequence[Tap], outputs: Any) -> bool:
    """Whether the gradient has to be followed: it might not reach a tap, or not in a replay.

    A look at a traced graph, which takes no time: true of no ordinary model.

    Args:
        taps: All of the model's.
        outputs: The model's, in the graph that is being traced.
    """
    ancestors = _ancestors_of([x for x in tf.nest.flatten(outputs) if tf.is_tensor(x)])
    if not all(any(output.op in ancestors for output in tap.outputs) for tap in taps):
        return True
    return any(tap.rule.replays for tap in taps) and _holds_own_gradient()


def _holds_own_gradient() -> bool:
    """Whether the graph that is being traced has one, or a function in it (a loop's body, say)."""
    graph = tf.compat.v1.get_default_graph()
    if any(map(_has_own_gradient, graph.get_operations())):
        return True
    functions = graph.as_graph_def().library.function
    return any("_gradient_op_type" in node.attr for f in functions for node in f.node_def)


def _ancestors_of(outputs: Sequence[tf.Tensor]) -> set[Any]:
    """The operations that tensors were made from by TensorFlow's own gradients, in their graph."""
    found: set[Any] = set()
    waiting = [output.op for output in outputs]
    while waiting:
        operation = waiting.pop()
        if operation in found:
            continue
        found.add(operation)
        if not _has_own_gradient(operation):
            waiting.extend(x.op for x in operation.inputs)
    return found


def _has_own_gradient(operation: tf.Operation) -> bool:
    try:
        return bool(operation.get_attr("_gradient_op_type"))
    except ValueError:
        return False


def reached(model: keras.Model, specification: Any, size: int, sites: Sites) -> Reached:
    """Follows the gradients of a model's outputs; traces it once more, and runs nothing.

    Args:
        model: The model.
        specification: Of its inputs, with `size` examples.
        size: Examples.
        sites: The layers to tap.
    """
    found: list[Reached] = []

    @tf.function(autograph=False)
    def trace(inputs: Any) -> tf.Tensor:
        variables = model.trainable_variables
        with tf.GradientTape() as tape, recording(sites, size, tape.watch) as taps:
            outputs = [x for x in tf.nest.flatten(model(inputs, training=True)) if is_floating(x)]
        flat = [output for tap in taps for output in tap.outputs]
        gradients = tape.gradient(outputs, [*flat, *(v.value for v in variables)])
        at_outputs = iter(gradients[: len(flat)])
        reached_taps = [any([next(at_outputs) is not None for _ in tap.outputs]) for tap in taps]
        reached_variables = {
            id(v)
            for v, gradient in zip(variables, gradients[len(flat) :], strict=True)
            if gradient is not None
        }
        hidden = [
            v
            for tap, is_reached in zip(taps, reached_taps, strict=True)
            if is_reached and tap.rule.replays
            for v in _hidden_from_replay(tap)
        ]
        settled = [
            is_reached or not _is_used_beside_taps(_covered(tap), taps, outputs)
            for tap, is_reached in zip(taps, reached_taps, strict=True)
        ]
        found.append(Reached(taps, settled, hidden, reached_variables))
        return tf.zeros([])

    trace.get_concrete_function(specification)
    return found[0]


def _hidden_from_replay(tap: Tap) -> list[keras.Variable]:
    """Variables that a call has a gradient of, but not where the fallback runs it on other values.

    Of this call alone: in another mode, the layer may well use other variables.
    """
    variables = tap.layer.trainable_variables
    values = [tf.convert_to_tensor(v.value) for v in variables]
    with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
        of_values = _has_gradients(tap, values)
    if all(of_values):
        return []
    of_variables = _has_gradients(tap, [v.value for v in variables])
    return [
        v
        for v, by_value, by_variable in zip(variables, of_values, of_variables, strict=True)
        if by_variable and not by_value
    ]


def _has_gradients(tap: Tap, sources: Sequence[Any]) -> list[bool]:
    """Whether a call, run again on the same inputs, has a gradient of each source."""
    args, kwargs = tf.nest.map_structure(_held_constant, (tap.args, dict(tap.kwargs)))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        outputs = tf.nest.flatten(tap.layer(*args, **kwargs))
    gradients = tape.gradient([x for x in outputs if is_floating(x)], sources)
    return [gradient is not None for gradient in gradients]


def _held_constant(x: Any) -> Any:
    """What `x` is, without what it was made from: the same layer may have made that, too."""
    if not is_floating(x):
        return x
    constant = tf.stop_gradient(x)
    mask = getattr(x, "_keras_mask", None)
    if mask is not None:
        constant._keras_mask = mask
    return constant


def _is_used_beside_taps(
    variables: Sequence[keras.Variable], taps: Sequence[Tap], outputs: Sequence[tf.Tensor]
) -> bool:
    """Whether a gradient can go from outputs to variables by a way with no tap that covers them.

    If not, a call without a gradient is one that nothing uses, or that is held constant: the other
    calls of its layer see all there is. Every gradient goes to inputs of an operation, those with
    gradients of their own and those that run other graphs included.
    """
    graph = tf.compat.v1.get_default_graph()
    inside = {id(outer): inner for outer, inner in graph.captures}
    handles = [id(v.value.handle) for v in variables]
    if not inside.keys() >= set(handles):
        return True
    sought = {inside[handle].op for handle in handles}
    known = {id(v) for v in variables}
    passed = {
        output.op
        for tap in taps
        if known <= {id(v) for v in _covered(tap)}
        for output in tap.outputs
        if output.graph is graph
    }
    waiting = [output.op for output in outputs]
    while waiting:
        operation = waiting.pop()
        if operation in sought:
            return True
        if operation not in passed and operation.type != "StopGradient":
            passed.add(operation)
            waiting.extend(x.op for x in operation.inputs)
    return False


def _covered(tap: Tap) -> list[keras.Variable]:
    """The variables whose per-example gradients a tap's rule gives."""
    return tap.layer.trainable_variables if tap.rule.covers_inner else owned_variables(tap.layer)


def is_blind(tap: Tap, is_reached: bool, variables: set[int]) -> bool:
    """Whether a tap finds no gradient although variables that its rule covers have one."""
    return not is_reached and any(id(v) in variables for v in _covered(tap))
