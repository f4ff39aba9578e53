"""Physical batches on their way to the replicas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from data.pipeline import PreparedSplit, batches_of
from training.batching import Batching
from training.loop import Feed


def feed_from(
    prepared: PreparedSplit, batching: Batching, strategy: tf.distribute.Strategy
) -> Feed:
    """A feed of `prepared` examples as `batching` draws them.

    Every worker draws the same indices and reads only its own replicas' rows.
    """

    def dataset(first: int, last: int, mine: range) -> tf.data.Dataset:
        return batches_of(
            prepared, lambda: batching.shares(first, last, mine), batching.replica_size
        )

    def feed(first: int, last: int) -> Iterator[Any]:
        if batching.replicas == 1:
            return iter(dataset(first, last, range(1)))

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local = context.num_replicas_in_sync // context.num_input_pipelines
            start = context.input_pipeline_id * local
            return dataset(first, last, range(start, start + local))

        return iter(strategy.distribute_datasets_from_function(of_worker))

    return feed
