"""Batches that other machines prepare: images read and decoded by a tf.data service.

The trainer decides which examples form every batch; the service reads the files, decodes and
resizes them. It gives a batch to whichever of its workers is free, so that batches arrive in any
order and, if a worker is lost, some never do. Neither may change a step, since epsilon was computed
for the batches that were drawn. So each comes back with its number and its ids: they are put in
order here, and a batch that is missing, double or not the one drawn is an error before its step.

Workers of the service run TensorFlow's own operations and none of Python's. They can therefore
read image files, under the paths that the trainer names, and nothing else: the sources that Python
reads, and the texts that are prepared once and kept, stay with the trainer. Labels and groups are
not sent, but for what a path says: that of an image in its class's folder names the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from configs.schema.errors import SettingError, UserError
from data.columns import unselected
from data.contracts import Split
from data.images import ImageFileColumn
from data.pipeline import PreparedSplit, batches_of

_SETTING = "data.service"
# Most batches and rows asked for at once: their paths travel together.
_BATCHES_ASKED = 1024
_ROWS_ASKED = 1 << 20
_PATIENCE_S = 10.0
_FAILED = "The same command continues the run from its last checkpoint."


def require_service(service: str, split: Split) -> None:
    """Makes sure, before anything costly, that a service can be used for the examples of a split.

    Args:
        service: `grpc://host:port` of a dispatcher.
        split: The examples.

    Raises:
        SettingError: The examples are no files, no dispatcher answers, or it has no worker.
    """
    if _files_of(split) is None:
        raise SettingError(
            _SETTING,
            service,
            f"image files (data.source: image_folder), or null: the {split.info.modality} examples "
            f"of {split.info.name} are read by Python, which the service's workers do not run",
        )
    try:
        workers = _workers_of(service)
    except grpc.RpcError as error:
        raise SettingError(
            _SETTING,
            service,
            "the address of a running tf.data dispatcher (`sterling data-service`), but "
            f"{error.details()}",
        ) from error
    if not workers:
        raise SettingError(
            _SETTING, service, "a dispatcher with workers (`sterling data-service --join`)"
        )


def _workers_of(service: str) -> bytes:
    """What a dispatcher says of its workers; empty without any. TensorFlow itself would wait."""
    with grpc.insecure_channel(service.removeprefix("grpc://")) as channel:
        ask = channel.unary_unary("/tensorflow.data.DispatcherService/GetWorkers")
        return ask(b"", timeout=_PATIENCE_S)


def served_batches(
    prepared: PreparedSplit,
    index_batches: Callable[[], Iterator[np.ndarray]],
    batch_size: int,
    service: str,
) -> tf.data.Dataset:
    """Returns what `data.pipeline.batches_of` returns, prepared by a service.

    Args:
        prepared: The examples: image files, not prepared ahead.
        index_batches: As in `batches_of`.
        batch_size: Rows of every batch.
        service: `grpc://host:port` of a dispatcher.

    Raises:
        tf.errors.UnknownError: While iterating: a batch is missing, double, or not the one drawn;
            its message holds the line of a `UserError`.
    """
    files = _files_of(prepared.split)
    assert files is not None, prepared.split.name
    assert prepared.inputs is None, "nothing is left to prepare"

    def pull() -> Iterator[dict[str, Any]]:
        indices = index_batches()
        at_once = max(1, min(_BATCHES_ASKED, _ROWS_ASKED // batch_size))
        while drawn := list(islice(indices, at_once)):
            served = _asked(prepared, np.stack(drawn), files, service)
            for ids, inputs in zip(drawn, in_order(served, drawn), strict=True):
                rows = np.maximum(ids, 0)
                yield {
                    "inputs": inputs,
                    "labels": prepared.labels[rows],
                    "groups": {name: values[rows] for name, values in prepared.groups.items()},
                    "mask": ids >= 0,
                    "ids": ids,
                }

    spec = batches_of(prepared, index_batches, batch_size).element_spec
    return tf.data.Dataset.from_generator(pull, output_signature=spec).prefetch(tf.data.AUTOTUNE)


def in_order(
    served: Iterator[dict[str, Any]], drawn: list[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the inputs of the batches that were drawn, in that order, as they arrive in any.

    Args:
        served: What came: `number`, `ids` and `inputs` of a batch.
        drawn: The ids of each batch, by number.

    Raises:
        UserError: A batch is missing, double, or not the one drawn.
    """
    waiting: dict[int, dict[str, np.ndarray]] = {}
    due = 0
    for batch in served:
        number = int(batch["number"])
        if not 0 <= number < len(drawn) or number < due or number in waiting:
            raise UserError(
                f"{_SETTING}: batch {number} came twice or was not asked for. {_FAILED}"
            )
        if not np.array_equal(batch["ids"], drawn[number]):
            raise UserError(
                f"{_SETTING}: batch {number} does not hold the examples that were drawn. {_FAILED}"
            )
        waiting[number] = batch["inputs"]
        while due in waiting:
            yield waiting.pop(due)
            due += 1
    if due < len(drawn):
        raise UserError(
            f"{_SETTING}: {len(drawn) - due - len(waiting)} batches never came: a worker of the "
            f"service was lost. {_FAILED}"
        )


def _asked(
    prepared: PreparedSplit,
    drawn: np.ndarray,
    files: Callable[[np.ndarray], np.ndarray],
    service: str,
) -> Iterator[dict[str, Any]]:
    """The service's answers, in any order: each batch goes to one worker, at most once."""
    ids = tf.constant(drawn)  # (batches, batch)
    # Padding repeats example 0 under a False mask, as in every pipeline.
    paths = tf.constant(files(np.maximum(drawn, 0)))

    def prepare(number: tf.Tensor) -> dict[str, Any]:
        raw = tf.map_fn(tf.io.read_file, tf.gather(paths, number))
        inputs = prepared.preprocess(tf.ensure_shape(raw, [drawn.shape[1]]))
        return {"number": number, "ids": tf.gather(ids, number), "inputs": dict(inputs)}

    service_ops = tf.data.experimental.service
    batches = tf.data.Dataset.range(len(drawn)).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    answers = batches.apply(service_ops.distribute(service_ops.ShardingPolicy.DYNAMIC, service))
    return answers.as_numpy_iterator()


def _files_of(split: Split) -> Callable[[np.ndarray], np.ndarray] | None:
    """From positions, of any shape, to the paths of a split's image files; None without files."""
    column = getattr(split, "raw", None)
    if column is None:
        return None
    files, selection = unselected(column)
    if not isinstance(files, ImageFileColumn):
        return None
    paths = files.paths

    def at(positions: np.ndarray) -> np.ndarray:
        found = [paths[selection[position]] for position in positions.ravel()]
        return np.array(found, object).reshape(positions.shape)

    return at
