"""`tf.data` streams of batches exactly as a plan draws them.

A `tf.data.Dataset` does not say how it was batched, so `fit` cannot know whether a user's own
matches the plan. These are made from the plan, carry their source with them, and lose that mark
with any transformation that could change what a batch is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from configs.schema import UserError, require
from training.batching import Batching, physical_batches
from training.privacy.keras_api.sources import Source, Transform, source_of
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness

_MARK = "_sterling_source"


def private_dataset(
    plan: PrivacyPlan,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    transform: Transform | None = None,
    physical_batch_size: int | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """The batches of all of a plan's steps, for a loop of your own; or a source for `fit`.

    Guarantees:
        Step t's physical batches hold exactly the examples that the plan's sampling draws for t.
        Without a seed every pass over the dataset draws anew.

    Args:
        plan: What the batches are drawn by.
        x, y, sample_weight, class_weight, transform: As `sources.source_of`.
        physical_batch_size: Rows of each element; none takes the plan's expected batch size and a
            little more. A larger draw comes as several elements.
        seed: Makes the draws repeatable, and the guarantee hold only against those who do not
            know it.

    Returns:
        Elements `{"inputs", "labels", "mask", "step", "last"}`: rows (physical, ...), `mask` bool
        False where a row is padding, the step an element belongs to, int64 (), and whether it is
        the last of that step, bool (): only then may noise be added and the weights updated.

    Raises:
        UserError: If the examples cannot be drawn at random, or are not as many as planned.
    """
    source = x_as_source(x, y, sample_weight, class_weight, transform)
    require_planned_size(plan, source.num_examples)
    size = physical_batch_size or default_physical_size(plan, replicas=1)
    require(size >= 1, "physical_batch_size", size, "a whole number >= 1")
    plan.sampler(Randomness.from_seed(seed))  # what cannot be drawn is refused now

    def draws() -> Iterator[tuple[np.ndarray, int, bool]]:
        batching = Batching(plan.sampler(Randomness.from_seed(seed)), size)
        return rows_of(batching, 0, plan.steps, range(1))

    dataset = batches(source, draws, size)
    setattr(dataset, _MARK, source)
    return dataset


def x_as_source(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    transform: Transform | None = None,
) -> Source:
    """The source that a private dataset carries, or that of raw examples."""
    carried = getattr(x, _MARK, None)
    if carried is None:
        return source_of(x, y, sample_weight, class_weight, transform)
    if any(given is not None for given in (y, sample_weight, class_weight, transform)):
        raise UserError(
            "fit(x): a private dataset holds labels and weights already. Give them to "
            "private_dataset instead."
        )
    return carried


def require_planned_size(plan: PrivacyPlan, num_examples: int) -> None:
    """Refuses data of another size than the plan's epsilon was computed for.

    Raises:
        UserError: If they differ, or if the plan's records are no single examples.
    """
    if plan.rows_per_record != 1:
        raise UserError(
            f"the plan bounds {plan.rows_per_record} examples of one person together, and which "
            "belong to whom is not said here. Train by a recipe, or make a plan with "
            "rows_per_record=1."
        )
    if plan.watch is not None:
        raise UserError(
            f"the plan releases who is clipped by {plan.watch.attribute}, and who belongs to which "
            "group is not said here. Train by a recipe, or make a plan with watch=None."
        )
    if num_examples != plan.num_examples:
        raise UserError(
            f"the plan is for {plan.num_examples} training examples, and there are {num_examples}: "
            "the sampling probability, and with it epsilon, would be another. Make the plan with "
            f"num_examples={num_examples}, after everything that is held out was cut off."
        )


def default_physical_size(plan: PrivacyPlan, *, replicas: int, size: int | None = None) -> int:
    """Rows of a physical batch over all replicas: room for most draws, a multiple of `replicas`."""
    from configs.schema import TrainingSettings
    from training.session import physical_size

    settings = TrainingSettings(
        steps=plan.steps, batch_size=plan.batch_size, physical_batch_size=size
    )
    return physical_size(settings, private=True, examples=plan.num_examples, replicas=replicas)


def rows_of(
    batching: Batching, first: int, last: int, mine: range
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """For every physical batch of steps `first` to `last`: indices, step, whether it is the last.

    Each replica in `mine` gets its own share, int64 (replica_size,), one after another.
    """
    for step in range(first, last):
        parts = physical_batches(batching.sampler.draw(step), batching.size)
        for number, part in enumerate(parts, start=1):
            for replica in mine:
                yield part[replica :: batching.replicas], step, number == len(parts)


def batches(source: Source, draws: Any, size: int) -> tf.data.Dataset:
    """Reads what `draws` names, ahead of the consumer and in its order.

    Args:
        source: The examples.
        draws: Called once a pass; yields (int64 (size,), step, last).
        size: Rows of each element.
    """
    form = source.read(np.zeros(1, np.int64))
    flat = tf.nest.flatten(form)
    dtypes = [tf.string if leaf.dtype == object else tf.as_dtype(leaf.dtype) for leaf in flat]

    @tf.autograph.experimental.do_not_convert
    def take(ids: np.ndarray) -> list[np.ndarray]:
        return tf.nest.flatten(source.read(np.maximum(ids, 0)))

    def gather(ids: tf.Tensor, step: tf.Tensor, last: tf.Tensor) -> dict[str, Any]:
        taken = tf.numpy_function(take, [ids], dtypes)
        for tensor, leaf in zip(taken, flat, strict=True):
            tensor.set_shape([size, *leaf.shape[1:]])
        record = tf.nest.pack_sequence_as(form, taken)
        return {**record, "mask": ids >= 0, "step": step, "last": last}

    signature = (
        tf.TensorSpec((size,), tf.int64),
        tf.TensorSpec((), tf.int64),
        tf.TensorSpec((), tf.bool),
    )
    options = tf.data.Options()
    options.deterministic = True
    return (
        tf.data.Dataset.from_generator(draws, output_signature=signature)
        .map(gather)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def replicated(
    source: Source, batching: Batching, strategy: tf.distribute.Strategy, first: int, last: int
) -> Any:
    """The batches of steps `first` to `last`, each replica its own rows."""

    def of_replicas(mine: range) -> tf.data.Dataset:
        return batches(source, lambda: rows_of(batching, first, last, mine), batching.replica_size)

    if batching.replicas == 1:
        return of_replicas(range(1))

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = context.num_replicas_in_sync // context.num_input_pipelines
        start = context.input_pipeline_id * local
        return of_replicas(range(start, start + local))

    return strategy.distribute_datasets_from_function(of_worker)
