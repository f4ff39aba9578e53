"""From examples drawn for a step to index batches of fixed shape, and to each replica's share.

Rows that belong to one record (a user's) stand side by side and are never parted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from data.contracts import PADDING
from training.permutation import Permutation
from training.randomness import Randomness

# Drawn steps that are kept: more than are read ahead one by one.
_REMEMBERED_STEPS = 16


class Sampler(Protocol):
    """Draws the examples of any step, the same whenever it is asked."""

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (drawn,)."""
        ...


@dataclass(frozen=True)
class ShuffledSampler:
    """Each epoch a fresh permutation, cut into batches; N is never written out where it is large.

    Attributes:
        num_examples: Size of the training set.
        batch_size: Examples per step; the last step of an epoch may have fewer.
        randomness: Where the permutations come from.
    """

    num_examples: int
    batch_size: int
    randomness: Randomness

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (drawn,)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = Permutation(self.num_examples, self.randomness, "shuffling", epoch)
        first = within * self.batch_size
        return order.take(first, min(first + self.batch_size, self.num_examples))


def physical_batches(drawn: np.ndarray, size: int) -> list[np.ndarray]:
    """Cuts a drawn batch into arrays of exactly `size`, the last padded with -1.

    An empty draw gives one array of padding: the step still happens (noise is still released).
    """
    count = max(1, -(-len(drawn) // size))
    padded = np.full(count * size, PADDING, np.int64)
    padded[: len(drawn)] = drawn
    return list(padded.reshape(count, size))


@dataclass(frozen=True)
class Batching:
    """Cuts a sampler's draws into physical batches and those into replicas' shares.

    Attributes:
        sampler: Draws each step's examples, whole records of them.
        size: Rows of a physical batch, over all replicas; a multiple of `replicas` times
            `rows_per_record`.
        replicas: Replicas in all.
        rows_per_record: Rows that stay together.

    Raises:
        ValueError: If a record would be parted.
    """

    sampler: Sampler
    size: int
    replicas: int = 1
    rows_per_record: int = 1

    def __post_init__(self) -> None:
        if self.size % (self.replicas * self.rows_per_record):
            raise ValueError(
                f"A batch must give each of {self.replicas} replicas whole records of "
                f"{self.rows_per_record} rows. Received: {self.size} rows"
            )

    @property
    def replica_size(self) -> int:
        return self.size // self.replicas

    def count(self, step: int) -> int:
        """Physical batches of `step`."""
        return len(self._physical(step))

    def shares(self, first: int, last: int, mine: range) -> Iterator[np.ndarray]:
        """Index batches int64 (replica_size,) of steps `first` to `last`, for replicas `mine`."""
        for step in range(first, last):
            for batch in self._physical(step):
                for replica in mine:
                    yield self.share(batch, replica)

    @cached_property
    def _physical(self) -> Callable[[int], list[np.ndarray]]:
        """The physical batches of a step; not drawn again when the loop counts those read ahead."""
        return lru_cache(_REMEMBERED_STEPS)(
            lambda step: physical_batches(self.sampler.draw(step), self.size)
        )

    def share(self, batch: np.ndarray, replica: int) -> np.ndarray:
        """A replica's rows of a physical batch, int64 (replica_size,).

        Records are dealt out in turn, so that a nearly empty batch is spread over all replicas.
        """
        records = batch.reshape(-1, self.rows_per_record)
        return records[replica :: self.replicas].ravel()
