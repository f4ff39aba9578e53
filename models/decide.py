"""A decision rule as part of a SavedModel: the same numbers as `models.decision_rule`, in a graph.

Draws are hashes of the raw example (SipHash with a fixed public key), so that nobody gets another
answer by asking again, and every process gives the same one. Who may alter the example may
thereby draw again.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from models.decision_rule import ABSTAINS, ABSTAINS_INDEX, DecisionRule

_KEY = [0x5374_6572, 0x6C69_6E67]
_DRAWS = 2**31


class GraphRule:
    """A rule as constants of a graph.

    Args:
        rule: How scores become answers.
        label_names: The two labels.

    Raises:
        ValueError: If there are not two labels.
    """

    def __init__(self, rule: DecisionRule, label_names: list[str]):
        if len(label_names) != 2:
            raise ValueError(f"A rule decides between two labels. Received: {label_names}")
        self._rule = rule
        most = max(len(steps.edges) for steps in rule.steps.values())
        edges = np.full((len(rule.steps), most), np.inf)
        selection = np.zeros((len(rule.steps), most + 1))
        for row, steps in enumerate(rule.steps.values()):
            edges[row, : len(steps.edges)] = steps.edges
            selection[row] = steps.selection[-1]
            selection[row, : len(steps.selection)] = steps.selection
        self._edges, self._selection = edges, selection
        self._names = [*label_names, ABSTAINS]

    def __call__(
        self, raw: tf.Tensor, probabilities: tf.Tensor, group: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Decides.

        Args:
            raw: Raw examples, string (batch,) or float32 (batch, d).
            probabilities: float32 (batch, 2).
            group: Names of groups, string (batch,); None for a rule without an attribute.

        Returns:
            `decision` string (batch,), a label or "abstain"; `decision_index` int32 (batch,), -1
            where it abstains; `selection_probability` float32 (batch,), with which the positive
            label is drawn; `probabilities`.

        Raises:
            tf.errors.InvalidArgumentError: When run with a group that the rule does not know.
        """
        score = tf.cast(probabilities[:, self._rule.positive], tf.float64)
        index = tf.zeros(tf.shape(score), tf.int32) if group is None else self._index(group)
        edges = tf.gather(tf.constant(self._edges, tf.float64), index)  # (batch, edges)
        passed = tf.math.count_nonzero(score[:, None] > edges, axis=1, dtype=tf.int32)
        selection = tf.gather_nd(
            tf.constant(self._selection, tf.float64), tf.stack([index, passed], axis=1)
        )
        positive, other = self._rule.positive, 1 - self._rule.positive
        answer = tf.where(_draws(raw) < selection, positive, other)
        near = tf.reduce_any(tf.abs(score[:, None] - edges) < self._rule.width, axis=1)
        names = tf.constant(self._names)
        return {
            "decision": tf.gather(names, tf.where(near, len(self._names) - 1, answer)),
            "decision_index": tf.cast(tf.where(near, ABSTAINS_INDEX, answer), tf.int32),
            "selection_probability": tf.cast(selection, tf.float32),
            "probabilities": probabilities,
        }

    def _index(self, group: tf.Tensor) -> tf.Tensor:
        known = self._rule.groups
        same = group[:, None] == tf.constant(list(known))[None]  # (batch, groups)
        unknown = tf.boolean_mask(group, ~tf.reduce_any(same, axis=1))
        expected = f"group: expected one of {', '.join(known)} for every example. Received:"
        check = tf.debugging.Assert(tf.size(unknown) == 0, [expected, unknown], summarize=3)
        with tf.control_dependencies([check]):
            return tf.argmax(tf.cast(same, tf.int32), axis=1, output_type=tf.int32)


def _draws(raw: tf.Tensor) -> tf.Tensor:
    """Uniform in [0, 1), float64 (batch,), the same for equal examples."""
    if raw.dtype != tf.string:
        written = tf.strings.as_string(raw, precision=8, scientific=True)
        raw = tf.strings.reduce_join(written, axis=1, separator=",")
    hashed = tf.strings.to_hash_bucket_strong(raw, _DRAWS, _KEY)
    return tf.cast(hashed, tf.float64) / _DRAWS
