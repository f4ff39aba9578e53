"""What a rule is, and what rules share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import PerExampleGradient

# Pairs of a Keras variable and its per-example gradient at one call.
Gradients = list[tuple[keras.Variable, PerExampleGradient]]


def owned_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The trainable variables that belong to `layer` itself, not to layers inside it."""
    trainable = {id(v) for v in layer.trainable_variables}
    return [v for v in layer._trainable_variables if id(v) in trainable]


def is_trained(layer: keras.Layer, variable: keras.Variable | None) -> bool:
    """Whether `layer` has this variable and trains it."""
    return variable is not None and any(variable is v for v in layer.trainable_variables)


def call_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tf.Tensor:
    """The input of a layer that takes one."""
    return args[0] if args else kwargs["inputs"]


class Rule(ABC):
    """How per-example gradients of one layer family are found.

    Attributes:
        whole: The layer is tapped as a whole although its variables belong to layers inside it
            (a recurrent layer runs its cell in a loop).
        covers_inner: The rule gives the gradients of the variables of layers inside the layer,
            too; else only of those that the layer owns.
        replays: The rule runs the layer again, so that its call is kept as it came, and nothing
            in it may be random.
    """

    whole: bool = False
    covers_inner: bool = False
    replays: bool = False

    def applies_to(self, layer: keras.Layer) -> bool:
        """Whether the formula covers this layer's configuration; if not, the fallback does."""
        return True

    @contextmanager
    def without_activation(
        self, layer: keras.Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[Callable[[Any], Any]]:
        """Runs this call of the layer linear; yields the activation to be applied after its tap.

        The rule's formulas hold for the gradient before the activation.
        """
        yield lambda outputs: outputs

    @abstractmethod
    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        """Per-example gradients of the layer's trainable variables at one call.

        Args:
            layer: The layer.
            args: Positional arguments of the call.
            kwargs: Keyword arguments of the call.
            output_gradients: Gradient of the summed loss at each output before activation; row i
                belongs to example i.
        """


class FusedActivationRule(Rule):
    """A rule for layers whose `activation` attribute is applied last, inside `call`."""

    @contextmanager
    def without_activation(
        self, layer: keras.Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[Callable[[Any], Any]]:
        activation = layer.activation
        # Through __dict__: an activation may itself be a layer, which Keras would track.
        layer.__dict__["activation"] = None
        try:
            yield activation if activation is not None else (lambda outputs: outputs)
        finally:
            layer.__dict__["activation"] = activation


@dataclass
class Inside:
    """What a rule that taps inside a layer found during one call.

    Attributes:
        outputs: The tensors whose gradients the rule needs, already watched.
        factors: What the rule needs beside them; stands for the arguments of the call.
    """

    outputs: list[tf.Tensor] = field(default_factory=list)
    factors: list[Any] = field(default_factory=list)


class InsideRule(Rule):
    """A rule whose tap lies inside the layer's call: at its output a gradient is past factoring.

    `gradients` gets the factors for `args`.
    """

    whole = True
    covers_inner = True

    @abstractmethod
    @contextmanager
    def tapped(self, layer: keras.Layer, watch: Callable[[tf.Tensor], None]) -> Iterator[Inside]:
        """Lets one call of the layer leave its tap; yields what is filled in during the call.

        Args:
            layer: The layer.
            watch: To be called with every tensor whose gradient is needed, when it is made.
        """


def reduce_to_shape(x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Sums `x` (batch, ...) over the axes along which a variable of `shape` was broadcast.

    Returns:
        (batch, *shape): the per-example gradient of a variable that was added with broadcasting.
    """
    extra = x.shape.rank - 1 - len(shape)
    axes = list(range(1, 1 + extra))
    kept = [
        1 + extra + axis
        for axis, size in enumerate(shape)
        if size == 1 and x.shape[1 + extra + axis] != 1
    ]
    total = tf.reduce_sum(x, axis=axes + kept) if axes or kept else x
    return tf.reshape(total, [-1, *shape])
