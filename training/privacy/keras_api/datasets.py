"""`tf.data` streams of batches exactly as a plan draws them.

A `tf.data.Dataset` does not say how its batches were drawn, so `fit` cannot know whether a user's
own match the plan. These are made from the plan, carry their source with them, and lose that mark
with any transformation that could change what a batch is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from configs.schema import TrainingSettings, UserError, require
from training.batching import Batching, physical_batches
from training.drawing import physical_size
from training.privacy.keras_api.sources import Source, Transform, source_of, source_of_columns
from training.privacy.keras_api.streams import materialised, refuse_unsound
from training.privacy.plan import PrivacyPlan
from training.privacy.users import require_users
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
    directory: str | Path | None = None,
    users: Any = None,
    physical_batch_size: int | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """The batches of all of a plan's steps, for a loop of your own; or a source for `fit`.

    Guarantees:
        Step t's physical batches hold exactly the examples that the plan's sampling draws for t.
        Without a seed every pass over the dataset draws anew.

    Args:
        plan: What the batches are drawn by.
        x, y, sample_weight, class_weight, transform: As `sources.source_of`; or, as `x` alone, a
            `tf.data.Dataset` of single examples, which is read through once (`streams`).
        directory: Where such a dataset is stored for random access; none keeps it in memory. What
            was stored is used again with `stored_examples(directory)` as `x`.
        users: (n,), the user of each example, whole numbers or texts: for a plan whose unit is a
            user. Every `plan.rows_per_record` rows of an element are then one user's, and the
            mask, (users, rows of each), has `clipped_gradient_sum` bound them together.
        physical_batch_size: Rows of each element; none takes the plan's expected batch size and a
            little more. A larger draw comes as several elements. Whole users only.
        seed: Makes the draws repeatable, and the guarantee hold only against those who do not
            know it.

    Returns:
        Elements `{"inputs", "labels", "mask", "step", "last"}`: rows (physical, ...), `mask` bool
        False where a row is padding, the step an element belongs to, int64 (), and whether it is
        the last of that step, bool (): only then may noise be added and the weights updated.

    Raises:
        UserError: If the examples cannot be drawn at random, or are not as many as planned.
    """
    source = x_as_source(plan, x, y, sample_weight, class_weight, transform, directory, users)
    require_planned_size(plan, source)
    size = physical_batch_size or default_physical_size(plan, replicas=1)
    _require_whole_records(plan, size)
    plan.sampler(Randomness.from_seed(seed), source.users)  # what cannot be drawn is refused now

    def draws() -> Iterator[tuple[np.ndarray, int, bool]]:
        sampler = plan.sampler(Randomness.from_seed(seed), source.users)
        batching = Batching(sampler, size, rows_per_record=plan.rows_per_record)
        return rows_of(batching, 0, plan.steps, range(1))

    dataset = batches(source, draws, size)
    if plan.by_user:
        # By its shape alone: a loop that forgot whose the rows are would bound each by itself.
        shape = [size // plan.rows_per_record, plan.rows_per_record]
        dataset = dataset.map(lambda e: {**e, "mask": tf.reshape(e["mask"], shape)})
    setattr(dataset, _MARK, source)
    return dataset


def x_as_source(
    plan: PrivacyPlan,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    transform: Transform | None = None,
    directory: str | Path | None = None,
    users: Any = None,
) -> Source:
    """The source that a private dataset carries, that of a pipeline, or that of raw examples.

    Raises:
        UserError: If the examples cannot be drawn at random, or a pipeline's are not as many as
            planned.
    """
    carried = getattr(x, _MARK, None)
    is_stream = isinstance(x, tf.data.Dataset) and carried is None
    if is_stream:
        refuse_unsound(x, _MARK)
    if directory is not None and not is_stream:
        raise UserError(
            f"directory={str(directory)!r}: expected none, because {type(x).__name__} is no "
            "tf.data.Dataset that would have to be stored."
        )
    if carried is None and not is_stream:
        return _of_users(source_of(x, y, sample_weight, class_weight, transform), users)
    if any(given is not None for given in (y, sample_weight, class_weight)) or (
        carried is not None and transform is not None
    ):
        raise UserError(
            "fit(x): a dataset holds labels and weights already, as elements (inputs, labels) or "
            "(inputs, labels, weight). Give them with its examples: in the pipeline, or to "
            "private_dataset."
        )
    if carried is not None:
        return _of_users(carried, users)
    if plan.by_user and users is None:
        require_users(None, plan.num_examples)
    # A plan for users counts users: how many examples there must be is then known by their list.
    examples = materialised(x, plan.num_examples if users is None else len(users), directory)
    source = (
        source_of_columns(examples, transform)
        if directory is None
        else source_of(examples, transform=transform)
    )
    return _of_users(source, users)


def _of_users(source: Source, users: Any) -> Source:
    return source if users is None else source.of_users(users)


def require_planned_size(plan: PrivacyPlan, source: Source) -> None:
    """Refuses data of another size than the plan's epsilon was computed for.

    Raises:
        UserError: If they differ, if one is of users and the other is not, or if the plan asks for
            what only a recipe's data have.
    """
    if plan.watch is not None:
        raise UserError(
            f"the plan releases who is clipped by {plan.watch.attribute}, and who belongs to which "
            "group is not said here. Train by a recipe, or make a plan with watch=None."
        )
    if plan.group_releases is not None:
        raise UserError(
            "the plan releases tables of groups, and who belongs to which group is not said here. "
            "Train by a recipe with fairness.releases, or make a plan with group_releases=None."
        )
    if plan.augmented:
        raise UserError(
            f"the plan bounds {plan.rows_per_record} versions of an example together, and which "
            "rows they are is not said here. Train by a recipe with fairness.swaps, or make a plan "
            "with rows_per_record=1."
        )
    if plan.by_user or source.users is not None:
        require_users(source.users, plan.num_examples if plan.by_user else None)
    elif source.num_examples != plan.num_examples:
        raise UserError(
            f"the plan is for {plan.num_examples} training examples, and there are "
            f"{source.num_examples}: the sampling probability, and with it epsilon, would be "
            f"another. Make the plan with num_examples={source.num_examples}, after everything "
            "that is held out was cut off."
        )


def _require_whole_records(plan: PrivacyPlan, size: int) -> None:
    require(
        size >= 1 and size % plan.rows_per_record == 0,
        "physical_batch_size",
        size,
        "a whole number >= 1"
        if plan.rows_per_record == 1
        else f"a multiple of the plan's {plan.rows_per_record} examples per user",
    )


def default_physical_size(plan: PrivacyPlan, *, replicas: int, size: int | None = None) -> int:
    """Rows of a physical batch over all replicas: room for most draws, a multiple of `replicas`."""
    settings = TrainingSettings(
        steps=plan.steps, batch_size=plan.batch_size, physical_batch_size=size
    )
    if size is not None:
        _require_whole_records(plan, size)
    return physical_size(
        settings,
        private=True,
        examples=plan.num_examples,
        replicas=replicas,
        rows=plan.rows_per_record,
    )


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
                yield batching.share(part, replica), step, number == len(parts)


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
