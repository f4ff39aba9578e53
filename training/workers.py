"""Several processes as one run: who writes, and how all of them know the same.

Every worker draws the same batches and the same noise from one root, reads only its own replicas'
rows, and takes the same steps. One of them, the chief, writes the run directory; what the chief
alone knows (the root, measurements) it tells the others through the strategy's own collectives,
so that no second channel has to be set up.

The run directory must be one that all workers can read (a shared file system or a bucket).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError

# One message is this many numbers, so that the collective is compiled once.
_CHUNK = 1024
# What collectives end with where a peer is gone.
_OF_LOST_PEERS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def lost_worker(error: tf.errors.OpError) -> UserError:
    """The error of a run that cannot go on without one of its workers."""
    return UserError(
        f"training: another worker was lost ({error.message.splitlines()[0][:200]}). Start all "
        "workers again with the same command: the run goes on from its last checkpoint."
    )


@contextmanager
def naming_lost_workers(*, joined: bool) -> Iterator[None]:
    """Says so where a peer was lost before or after training, when workers agree on something.

    Args:
        joined: Whether this process has peers.

    Raises:
        UserError: Instead of TensorFlow's error.
    """
    try:
        yield
    except _OF_LOST_PEERS as error:
        if not joined:
            raise
        raise lost_worker(error) from error


@dataclass(frozen=True)
class Workers:
    """The processes that share a strategy; one process without a cluster.

    Attributes:
        strategy: Where the run is spread.
    """

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)

    @property
    def count(self) -> int:
        """Processes of the run."""
        if isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return int(self.strategy.extended._num_workers)
        return 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run directory."""
        return self.count == 1 or bool(self.strategy.extended._is_chief)

    @property
    def index(self) -> int:
        """Which of the processes this is, in [0, count)."""
        return 0 if self.count == 1 else int(self.strategy.extended._id_in_cluster)

    def from_chief(self, value: Any) -> Any:
        """What the chief passes, on every worker; all must call it at the same point.

        Args:
            value: Plain JSON data; ignored on all but the chief.
        """
        if self.count == 1:
            return value
        content = json.dumps(value).encode() if self.is_chief else b""
        length = int(self._total(np.array([len(content)], np.int64))[0])
        mine = np.zeros(length, np.int64)
        mine[: len(content)] = np.frombuffer(content, np.uint8)
        chunks = [self._total(mine[at : at + _CHUNK]) for at in range(0, length, _CHUNK)]
        return json.loads(np.concatenate(chunks).astype(np.uint8).tobytes())

    def any(self, mine: bool) -> bool:
        """Whether any worker passes True; all must call it at the same point."""
        return mine if self.count == 1 else bool(self._total(np.array([mine], np.int64))[0])

    def total(self, mine: np.ndarray) -> np.ndarray:
        """The sum over workers of their arrays, the same on all; all must call it at one point.

        Args:
            mine: float64, of one shape on all workers.
        """
        if self.count == 1:
            return mine
        flat = mine.ravel()
        starts = range(0, len(flat), _CHUNK)
        parts = [self._total(flat[at : at + _CHUNK], self._all_reduced_numbers) for at in starts]
        return np.concatenate(parts).reshape(mine.shape)

    def require_same(self, value: Any, what: str) -> None:
        """Refuses to go on where workers differ from the chief in `value`; all must call it.

        Raises:
            UserError: On every worker, if any differs.
        """
        if self.any(self.from_chief(value) != value):
            raise UserError(
                f"the workers do not agree on {what} (here: {value!r}). Give all workers the same "
                "recipe, the same data and one run directory that all of them can read."
            )

    @cached_property
    def _all_reduced(self) -> Callable[[tf.Tensor], Any]:
        return self._reducing(tf.int64)

    @cached_property
    def _all_reduced_numbers(self) -> Callable[[tf.Tensor], Any]:
        return self._reducing(tf.float64)

    def _reducing(self, dtype: tf.DType) -> Callable[[tf.Tensor], Any]:
        local = self.strategy.num_replicas_in_sync // self.count

        def of_replica(value: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # Only one replica of each worker speaks.
            speaks = context.replica_id_in_sync_group % local == 0
            return context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.where(speaks, value, tf.zeros_like(value))
            )

        return tf.function(
            lambda value: self.strategy.run(of_replica, (value,)),
            autograph=False,
            input_signature=[tf.TensorSpec([_CHUNK], dtype)],
        )

    def _total(
        self, mine: np.ndarray, reduced: Callable[[tf.Tensor], Any] | None = None
    ) -> np.ndarray:
        """The sum over workers of a vector of at most `_CHUNK` numbers, int64 unless `reduced`."""
        padded = np.zeros(_CHUNK, mine.dtype)
        padded[: len(mine)] = mine
        total = (reduced or self._all_reduced)(tf.constant(padded))
        first: np.ndarray = self.strategy.experimental_local_results(total)[0].numpy()
        return first[: len(mine)]


class ChiefLogs(keras.callbacks.Callback):
    """Gives every worker the chief's epoch logs, so that all callbacks decide alike.

    Only the chief measures. Without this a learning rate or an early stop could differ between
    workers by a rounding error, and their weights with it. Comes after the measuring callbacks
    and before those that act on what was measured.

    Args:
        workers: The processes of the run.
    """

    def __init__(self, workers: Workers):
        super().__init__()
        self._workers = workers

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or self._workers.count == 1:
            return
        numbers = {key: float(value) for key, value in logs.items()}
        logs.update(self._workers.from_chief(numbers))
