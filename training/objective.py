"""Terms of the objective beside the task's loss and unfairness: opacity and leakage.

F = task loss + alpha unfairness + beta opacity + gamma leakage. Both terms here are an example's
own, so that they average over a batch as the loss does.

Guarantees (what epsilon depends on):
    Leakage is a function of one example's logits: added to the loss, it leaves a per-example loss,
    which clipping bounds like any other. Opacity is differentiated twice and has no rule in the
    private engine: `ObjectiveSettings.require_private` refuses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from configs.schema import ObjectiveSettings
from models import split_at_embeddings
from training.privacy.clipping import PerExampleLoss


@dataclass(frozen=True)
class Terms:
    """Which terms are added, and how much they count.

    Attributes:
        opacity: Beta; 0 for no such term.
        leakage: Gamma; 0 for no such term.
    """

    opacity: float = 0.0
    leakage: float = 0.0

    @classmethod
    def of(cls, settings: ObjectiveSettings) -> Terms:
        """What the recipe asks for."""
        return cls(settings.opacity_weight, settings.leakage_weight)

    def added_to(self, loss: PerExampleLoss) -> PerExampleLoss:
        """The loss with what depends on logits alone added: leakage."""
        if not self.leakage:
            return loss
        return lambda labels, logits: loss(labels, logits) + self.leakage * confidence(logits)


def confidence(logits: tf.Tensor) -> tf.Tensor:
    """log(classes) - entropy of the answer: 0 for a uniform one, log(classes) for a certain one.

    Pereyra et al. 2017 (arXiv:1701.06548) penalise it to regularise; that members are recognised by
    confident answers is Yeom et al. 2018 (1709.01604) and Salem et al. 2019 (1806.01246).

    Args:
        logits: float32 (batch, classes).

    Returns:
        float32 (batch,).
    """
    logs = tf.nn.log_softmax(logits)
    return math.log(logits.shape[-1]) + tf.reduce_sum(tf.exp(logs) * logs, axis=-1)


class OpacityModel:
    """A model with the means to say how its losses hang on its inputs.

    Opacity of an example: ||d loss / d x||^2 over all entries of x, its inputs or, where those are
    ids, their embeddings (Drucker & Le Cun 1992; Ross & Doshi-Velez 2018, arXiv:1711.09404: answers
    that small changes do not sway are easier to explain and to defend).

    Args:
        model: A functional model.

    Raises:
        ValueError: If nothing on the way from inputs to outputs is real-valued.
    """

    def __init__(self, model: keras.Model):
        self._embed, self._rest = split_at_embeddings(model)

    def __call__(
        self, batch: dict[str, Any], loss: PerExampleLoss
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One forward pass in training.

        Returns:
            Logits (batch, classes), losses (batch,) and opacity (batch,), all float32.
        """
        inputs = batch["inputs"]
        if self._embed is not None:
            inputs = self._embed(inputs, training=True)
        reals = [x for x in tf.nest.flatten(inputs) if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(reals)
            logits = tf.cast(self._rest(inputs, training=True), tf.float32)
            losses = loss(batch["labels"], logits)
        found = tape.gradient(losses, reals, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        squares = [
            tf.reduce_sum(tf.square(tf.cast(g, tf.float32)), axis=range(1, len(g.shape)))
            for g in found
        ]
        return logits, losses, tf.add_n(squares)
