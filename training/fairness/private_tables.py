"""With privacy: what the second player learns, released with noise and paid for before it is used.

Guarantees (what epsilon depends on):
    A table of training examples reaches the multipliers only through
    `GroupReleases.release`, and only once the ledger holds the noisy numbers. Where the ledger
    holds those of a step already, they are used again as they are, which is post-processing and
    costs nothing, whatever the weights have become. Once the planned number is spent no more are
    released; the multipliers then stay.
    Several workers count a part of the batches each. Every example is in one part, so that the sum
    has the sensitivity of one table. The chief adds the noise to that sum, once, and records it;
    from the chief the others have the very numbers that the ledger has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data import PreparedSplit, batches_in_order
from training.fairness.player import Player
from training.privacy.group_releases import GroupReleases
from training.privacy.ledger import Ledger
from training.randomness import Randomness
from training.workers import Workers


@dataclass(frozen=True)
class PrivateTables:
    """Releases a run's tables; called before every step.

    Attributes:
        releases: Which and when.
        player: Who learns from them.
        model: The model, whose answers and losses they tell of.
        loss: The task's per-example loss.
        examples: The training examples, perhaps followed by other versions of them.
        num_examples: How many of them are examples: each person is counted once.
        batch_size: Examples looked at at once.
        ledger: Where they are recorded.
        randomness: Of the noise.
        workers: The processes of the run: all count, the chief draws the noise and records.
    """

    releases: GroupReleases
    player: Player
    model: keras.Model
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    examples: PreparedSplit
    num_examples: int
    batch_size: int
    ledger: Ledger
    randomness: Randomness
    workers: Workers

    def before(self, step: int) -> None:
        """Releases the table that is due before `step`, if one is, and lets the player learn.

        Raises:
            UserError: If the ledger cannot be written.
        """
        if not self.releases.due(step):
            return
        kept = self.ledger.table(step)
        if kept is None:
            if not self.ledger.allows_table():
                logging.warning(
                    "The planned tables of groups are spent: fairness goes on with the "
                    "multipliers of the last one."
                )
                return
            kept = self._released(self.exact(), step)
        self.player.learn_once(np.asarray(kept), step)

    def _released(self, table: np.ndarray, step: int) -> list[Any]:
        """The noisy table, which the ledger holds before any worker has it."""
        noisy: list[Any] = []
        if self.workers.is_chief:
            neighbours = str(self.ledger.plan.neighbours)
            noisy = self.releases.release(table, neighbours, self.randomness, step).tolist()
            self.ledger.record_table(step, noisy)
        kept: list[Any] = self.workers.from_chief(noisy)
        if not self.workers.is_chief:
            self.ledger.record_table(step, kept)
        return kept

    def exact(self) -> np.ndarray:
        """The table as it is, float64 (groups, labels, K). Not private.

        Of several workers each counts every so many-th batch; all must call it at one point.
        """
        return self.workers.total(self._of_mine())

    def _of_mine(self) -> np.ndarray:
        total = np.zeros(self.player.table_shape)
        workers = self.workers
        for batch in batches_in_order(
            self.examples, self.batch_size, index=workers.index, count=workers.count
        ):
            if int(batch["ids"][0]) >= self.num_examples:
                break
            total += self._of_batch(
                {**batch, "mask": batch["mask"] & (batch["ids"] < self.num_examples)}
            ).numpy()
        return total

    @cached_property
    def _of_batch(self) -> Callable[[dict[str, Any]], tf.Tensor]:
        @tf.function(autograph=False)
        def of_batch(batch: dict[str, Any]) -> tf.Tensor:
            logits = tf.cast(self.model(batch["inputs"], training=False), tf.float32)
            return self.player.bounded_table(batch, logits, self.loss(batch["labels"], logits))

        return of_batch
