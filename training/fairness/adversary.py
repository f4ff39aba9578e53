r"""An adversary that guesses the group from the score (Zhang, Lemoine & Mitchell 2018, 1801.07593).

From the score's logit a, s = sigmoid((1 + |c|) a), and from s and the label y the adversary guesses
the group by a linear softmax (section 4.4 there, for any number of groups):

    demographic_parity   of everybody, from s
    equal_opportunity    of those of the positive label, from s
    equalized_odds       of everybody, from s, s [y positive], s [y other] and [y positive]

Its own weights go down its loss L_A. The model's, theta, go against

    grad L - proj(grad L onto grad L_A) - weight grad L_A

over all of theta as one vector (equation 1 there): what in the task's gradient would help the
adversary is taken out, and the model is moved to where the adversary is worse. This is the paper's
gradient projection, not a reversed gradient, which would lack the middle term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from data import DatasetInfo


@dataclass(frozen=True)
class AdversaryTask:
    """What the adversary guesses, and how much the model minds.

    Attributes:
        parity: "demographic_parity", "equal_opportunity" or "equalized_odds".
        weight: By which the model follows -grad L_A.
        learning_rate: Of the adversary's Adam.
        attribute: The group attribute.
        groups: How many groups it has.
        positive: Index of the positive label.
    """

    parity: str
    weight: float
    learning_rate: float
    attribute: str
    groups: int
    positive: int

    def strata(self, info: DatasetInfo) -> dict[str, tuple[bool, ...]]:
        """Name -> labels of which every group must have people."""
        if self.parity == "demographic_parity":
            return {}
        kept = tuple(i == self.positive for i in range(len(info.label_names)))
        return {f"the label {info.label_names[self.positive]}": kept}


class Adversary:
    """The adversary's weights, its optimizer and its loss.

    Args:
        task: What it does.
        strategy: Where the step runs.
    """

    def __init__(self, task: AdversaryTask, strategy: tf.distribute.Strategy):
        self.task = task
        width = 4 if task.parity == "equalized_odds" else 1
        with strategy.scope():
            self.variables = [
                keras.Variable(keras.ops.zeros([width, task.groups]), name="adversary_kernel"),
                keras.Variable(keras.ops.zeros([task.groups]), name="adversary_bias"),
                keras.Variable(keras.ops.zeros([]), name="adversary_sharpness"),
            ]
            self._optimizer = keras.optimizers.Adam(task.learning_rate)
            self._optimizer.build(self.variables)

    @property
    def state(self) -> list[tf.Variable]:
        """What a checkpoint keeps: weights and what their optimizer remembers."""
        return [v.value for v in (*self.variables, *self._optimizer.variables)]

    def losses(self, batch: Mapping[str, Any], logits: tf.Tensor) -> tf.Tensor:
        """The adversary's loss of each example, float32 (batch,); 0 where it does not guess.

        Args:
            batch: `labels` (batch,), `mask` (batch,) and `groups` by attribute.
            logits: float32 (batch, classes), the model's.
        """
        kernel, bias, sharpness = (tf.convert_to_tensor(v.value) for v in self.variables)
        log_odds = _log_odds(logits, self.task.positive)
        score = tf.sigmoid((1.0 + tf.abs(sharpness)) * log_odds)
        is_positive = tf.equal(tf.cast(batch["labels"], tf.int32), self.task.positive)
        y = tf.cast(is_positive, tf.float32)
        shown, guessed = [score], batch["mask"]
        if self.task.parity == "equalized_odds":
            shown += [score * y, score * (1.0 - y), y]
        elif self.task.parity == "equal_opportunity":
            guessed = guessed & is_positive
        members = tf.clip_by_value(
            tf.cast(batch["groups"][self.task.attribute], tf.int32), 0, self.task.groups - 1
        )
        guess = tf.stack(shown, axis=-1) @ kernel + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(members, guess)
        return tf.where(guessed, losses, 0.0)

    def learn(self, gradients: list[tf.Tensor], replicas: int) -> None:
        """Goes down its mean loss; every replica holds the whole gradient."""
        self._optimizer.apply([g / replicas for g in gradients], self.variables)

    def against(self, task: list[tf.Tensor], adversary: list[tf.Tensor]) -> list[tf.Tensor]:
        """The model's update direction, from both losses' gradients for the model's weights."""
        along = tf.add_n([tf.reduce_sum(p * a) for p, a in zip(task, adversary, strict=True)])
        squared = tf.add_n([tf.reduce_sum(a * a) for a in adversary])
        share = tf.math.divide_no_nan(along, squared) + self.task.weight
        return [p - share * a for p, a in zip(task, adversary, strict=True)]


def _log_odds(logits: tf.Tensor, positive: int) -> tf.Tensor:
    """Logit of the positive label's probability, float32 (batch,)."""
    others = [i for i in range(logits.shape[-1]) if i != positive]
    return logits[:, positive] - tf.reduce_logsumexp(tf.gather(logits, others, axis=1), axis=1)
