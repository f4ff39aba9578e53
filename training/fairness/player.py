"""The second player of a fairness game: its multipliers, as variables that a checkpoint keeps.

What an example's group and label do to its loss,

    weight[g, y] loss(x) + cost[g, y] p(x),      p: probability of the positive label,

is computed from the multipliers at every step (`Rule.prices`). The multipliers learn from tables
(`training.fairness.group_table`): in plain training from every logical batch, by a running
estimate; with privacy from noisy tables alone (`training.fairness.private_tables`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import tensorflow as tf

from training.fairness.group_table import bounded, cells_of, group_table, parts_of, selected
from training.privacy.group_releases import WIDTHS

_TINY = 1e-12


class Rule(Protocol):
    """How multipliers are moved and what they do. Public numbers only.

    Attributes:
        statistic: What the tables hold: "counts", "selection" or "loss".
    """

    statistic: ClassVar[str]

    def initial(self) -> np.ndarray:
        """The multipliers before anything was seen."""
        ...

    def updated(self, multipliers: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """The multipliers after a table (groups, labels, K)."""
        ...

    def prices(self, multipliers: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Weights and costs, float32 (groups, labels), at each cell's share of all people."""
        ...

    def named(self, multipliers: np.ndarray, table: np.ndarray) -> dict[str, float]:
        """What to log: multipliers, and how groups fared in the table last seen."""
        ...


@dataclass(frozen=True)
class Game:
    """A second player, not yet playing: what it is told before the first step.

    Attributes:
        rule: How its multipliers move.
        attribute: The group attribute.
        shape: Numbers of groups and of labels.
        positive: Index of the positive label.
        counts: Training examples (groups, labels) where they may be known exactly; None with
            privacy, where the tables tell.
        memory: Share of itself that the running estimate keeps at every table.
        loss_unit: The loss that counts as 1 in a table.
    """

    rule: Rule
    attribute: str
    shape: tuple[int, int]
    positive: int
    counts: np.ndarray | None
    memory: float = 0.0
    loss_unit: float = 1.0


class Player:
    """A game's variables and what a step asks of them.

    Args:
        game: The game.
        strategy: Where the step runs.
    """

    def __init__(self, game: Game, strategy: tf.distribute.Strategy):
        self.game = game
        width = WIDTHS[game.rule.statistic]

        def variable(value: np.ndarray) -> tf.Variable:
            return tf.Variable(
                value,
                dtype=tf.float32,
                trainable=False,
                # All replicas compute the same from the same all-reduced table.
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        with strategy.scope():
            self._multipliers = variable(game.rule.initial())
            self._estimate = variable(np.zeros([*game.shape, width], np.float32))
            # Of float32, which counts steps exactly up to 2^24.
            self._latest = variable(np.array(-1.0, np.float32))

    @property
    def state(self) -> list[tf.Variable]:
        """What a checkpoint keeps."""
        return [self._multipliers, self._estimate, self._latest]

    @property
    def table_shape(self) -> tuple[int, ...]:
        """Of a table: (groups, labels, K)."""
        return tuple(self._estimate.shape)

    def prices(self, batch: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """Weight of each example's loss and cost of its positive answer, float32 (batch,)."""
        weights, costs = self.game.rule.prices(
            tf.convert_to_tensor(self._multipliers), self._shares()
        )
        cells = cells_of(batch, self.game.attribute, self.game.shape)
        return tf.gather(tf.reshape(weights, [-1]), cells), tf.gather(
            tf.reshape(costs, [-1]), cells
        )

    def priced(self, batch: Mapping[str, Any], loss: Any) -> Any:
        """A per-example loss of `batch`, as the game prices it; row i depends on row i alone."""
        weights, costs = self.prices(batch)

        def of(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
            score = tf.nn.softmax(logits)[:, self.game.positive]
            return weights * loss(labels, logits) + costs * score

        return of

    def table(self, batch: Mapping[str, Any], logits: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
        """What a batch adds to a table, (groups, labels, K), as it is.

        Args:
            batch: A Batch.
            logits: float32 (batch, classes).
            losses: float32 (batch,), of the task alone.
        """
        parts = parts_of(self._values(logits, losses))
        return group_table(batch, self.game.attribute, self.game.shape, parts)

    def bounded_table(
        self, batch: Mapping[str, Any], logits: tf.Tensor, losses: tf.Tensor
    ) -> tf.Tensor:
        """The same, each example adding at most 1 in L2 norm: what may be released with noise.

        In float64: float32 counts no further than 2^24 people, and rounds sums over fewer by more
        than one of them adds.
        """
        values = tf.cast(bounded(self._values(logits, losses)), tf.float64)
        parts = tf.ones_like(values)[:, None]
        if self.game.rule.statistic != "counts":
            parts = parts_of(values)
        return group_table(batch, self.game.attribute, self.game.shape, parts)

    def learn(self, table: tf.Tensor) -> None:
        """Moves the multipliers by a table of people, (groups, labels, K), perhaps noisy."""
        before = tf.convert_to_tensor(self._estimate)
        estimate = self.game.memory * before + (1.0 - self.game.memory) * table
        moved = self.game.rule.updated(tf.convert_to_tensor(self._multipliers), estimate)
        self._multipliers.assign(moved)
        self._estimate.assign(estimate)

    def learn_once(self, table: np.ndarray, step: int) -> None:
        """Learns from the table of `step`, unless it has: a step can be begun more than once."""
        if step > float(tf.convert_to_tensor(self._latest)):
            self.learn(tf.constant(table, tf.float32))
            self._latest.assign(float(step))

    def named(self) -> dict[str, float]:
        """Multipliers and how groups fared, by name, each with a colon in it.

        Names begin with "released " where all of it comes from noisy tables.
        """
        found = self.game.rule.named(
            tf.convert_to_tensor(self._multipliers).numpy(),
            tf.convert_to_tensor(self._estimate).numpy(),
        )
        prefix = "released " if self.game.counts is None else ""
        return {f"{prefix}{name}": value for name, value in found.items()}

    def _values(self, logits: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
        if self.game.rule.statistic == "loss":
            return losses / self.game.loss_unit
        return selected(logits, self.game.positive)

    def _shares(self) -> tf.Tensor:
        if self.game.counts is not None:
            return tf.constant(self.game.counts / self.game.counts.sum(), tf.float32)
        # Noisy numbers of people may be negative.
        people = tf.maximum(tf.reduce_sum(tf.convert_to_tensor(self._estimate), axis=-1), 0.0)
        return people / tf.maximum(tf.reduce_sum(people), _TINY)
