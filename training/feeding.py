"""Physical batches on their way to the replicas, assembled ahead of the steps that take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from data.pipeline import PreparedSplit, batch_at, batches_of
from data.service import served_batches
from training.batching import Batching
from training.reading_ahead import read_ahead

# Most that batches waiting for their step may take, beside what tf.data reads ahead ...
_WAITING_BYTES = 1 << 27
# ... and most of them: enough that a thread which now and then gets no core is not missed.
_WAITING_BATCHES = 8


@dataclass(frozen=True)
class ReplicaFeed:
    """A feed of `prepared` examples as `batching` draws them.

    Every worker draws the same indices and reads only its own replicas' rows.

    Attributes:
        prepared: The training examples.
        batching: Which of them form each step.
        strategy: The replicas.
        service: Address of the tf.data service that prepares the batches; none prepares them here.
    """

    prepared: PreparedSplit
    batching: Batching
    strategy: tf.distribute.Strategy
    service: str | None = None

    def __call__(self, first: int, last: int) -> Iterator[Any]:
        """The physical batches of steps `first` to `last`, one Batch a replica."""
        return iter(self._dataset(first, last))

    def ahead(self, first: int, last: int) -> Iterator[Any]:
        """The same batches, for a loop in Python: the next are there before a step asks for them.

        What is drawn ahead changes nothing: a step's draw depends on its number alone.
        """
        in_memory = self.prepared.inputs is not None and self.service is None
        if in_memory and self.batching.replicas == 1:
            shares = self.batching.shares(first, last, range(1))
            return read_ahead((batch_at(self.prepared, ids) for ids in shares), self._waiting)
        return read_ahead(self(first, last), self._waiting)

    @property
    def _waiting(self) -> int:
        """How many batches may wait for their step."""
        batch = batches_of(self.prepared, lambda: iter(()), self.batching.size).element_spec
        size = sum(s.shape.num_elements() * s.dtype.size for s in tf.nest.flatten(batch))
        return int(np.clip(_WAITING_BYTES // max(size, 1), 1, _WAITING_BATCHES))

    @property
    def element_spec(self) -> Any:
        """Structure, shapes and dtypes of what the feed gives, for a step to be traced with."""
        return self._dataset(0, 0).element_spec

    def _dataset(self, first: int, last: int) -> Any:
        if self.batching.replicas == 1:
            return self._of_replicas(first, last, range(1))

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local = context.num_replicas_in_sync // context.num_input_pipelines
            start = context.input_pipeline_id * local
            # Without an end: of a finite feed over several workers TensorFlow expects a shorter
            # last batch, and gives up the static batch size. The loop takes what the steps need.
            return self._of_replicas(first, last, range(start, start + local)).repeat()

        return self.strategy.distribute_datasets_from_function(of_worker)

    def _of_replicas(self, first: int, last: int, mine: range) -> tf.data.Dataset:
        def shares() -> Iterator[np.ndarray]:
            return self.batching.shares(first, last, mine)

        size = self.batching.replica_size
        if self.service is None:
            return batches_of(self.prepared, shares, size)
        return served_batches(self.prepared, shares, size, self.service)
