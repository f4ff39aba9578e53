"""A Keras model's answers as `Predictions`: from tf.data of Batch, or from plain arrays."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tensorflow as tf

from configs.schema.errors import UserError
from evaluation.predictions import Predictions

if TYPE_CHECKING:
    import keras

    from data.contracts import Batch, DatasetInfo

Outputs = Literal["logits", "probabilities"]

_COMPILED = "_sterling_inference"
_LEAST_PROBABILITY = 1e-7  # Keras's epsilon: a probability of 0 has no finite logarithm


def predict_batches(
    model: keras.Model, batches: Iterable[Batch], info: DatasetInfo, split: str
) -> Predictions:
    """Asks the model about every example of a split.

    Args:
        model: From a dict of named inputs to logits (batch, classes).
        batches: Batches of the whole split; rows whose `mask` is False are left out.
        info: What is known of the dataset.
        split: Name of the split.

    Raises:
        UserError: If there is no example, or the logits do not fit the labels.
    """
    answer = inference(model)
    rows: list[dict[str, np.ndarray]] = []
    for batch in batches:
        logits = np.asarray(answer(batch["inputs"]), np.float32)
        kept = np.asarray(batch["mask"], bool)
        row = {"logits": logits, "labels": batch["labels"], "ids": batch["ids"]}
        row |= {f"group:{name}": batch["groups"][name] for name in info.groups}
        rows.append({name: np.asarray(value)[kept] for name, value in row.items()})
    if not rows:
        raise UserError(f"split {split!r} has no examples: nothing can be measured")
    column = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return Predictions(
        logits=column["logits"],
        labels=column["labels"],
        label_names=info.label_names,
        groups={name: column[f"group:{name}"] for name in info.groups},
        group_names=dict(info.groups),
        ids=column["ids"],
        split=split,
    )


def predict_arrays(
    model: keras.Model,
    inputs: Any,
    labels: np.ndarray,
    groups: Mapping[str, np.ndarray],
    *,
    label_names: Sequence[str] | None = None,
    outputs: Outputs = "logits",
    batch_size: int = 256,
    split: str = "validation",
) -> Predictions:
    """Asks a model about examples held in arrays.

    Args:
        model: What `model(inputs)` gives, (batch, classes) or for two classes (batch, 1) or
            (batch,), is described by `outputs`.
        inputs: An array, or a structure of arrays as the model takes it; examples first.
        labels: int (examples,), index into `label_names`.
        groups: Attribute -> (examples,) values of any kind (text, numbers).
        label_names: Label values in index order; none numbers them.
        outputs: Whether the model ends in logits or in a softmax or sigmoid.
        batch_size: Examples per forward pass.
        split: Name of the split.

    Raises:
        UserError: If the parts do not fit one another.
    """
    labels = np.asarray(labels).reshape(-1).astype(np.int32)
    answer = inference(model)
    slices = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
    batches = [np.asarray(answer(_rows(inputs, chosen))) for chosen in slices]
    if not batches:
        raise UserError(f"split {split!r} has no examples: nothing can be measured")
    logits = to_logits(np.concatenate(batches), outputs)
    names = label_names or [str(index) for index in range(logits.shape[1])]
    coded = {
        name: np.unique(np.asarray(values), return_inverse=True) for name, values in groups.items()
    }
    return Predictions(
        logits=logits,
        labels=labels,
        label_names=tuple(str(name) for name in names),
        groups={name: codes.reshape(-1).astype(np.int32) for name, (_, codes) in coded.items()},
        group_names={name: tuple(str(v) for v in values) for name, (values, _) in coded.items()},
        ids=np.arange(len(labels), dtype=np.int64),
        split=split,
    )


def _rows(inputs: Any, chosen: slice) -> Any:
    return tf.nest.map_structure(lambda values: values[chosen], inputs)


def to_logits(outputs: np.ndarray, kind: Outputs) -> np.ndarray:
    """Turns a model's outputs into logits, float32 (examples, classes).

    A single column z (or probability p of label 1) becomes the two logits (0, z), which have the
    same softmax.
    """
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.shape[1] == 1:
        if kind == "probabilities":
            p = np.clip(outputs, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
            outputs = np.log(p) - np.log1p(-p)
        return np.hstack([np.zeros_like(outputs), outputs]).astype(np.float32)
    if kind == "probabilities":
        outputs = np.log(np.maximum(outputs, _LEAST_PROBABILITY))
    return outputs.astype(np.float32)


def inference(model: keras.Model) -> Callable[[Any], tf.Tensor]:
    """Returns the model's compiled forward pass, dropout off; compiled once for each model."""
    kept = vars(model).get(_COMPILED)
    if kept is None:
        owner = weakref.ref(model)  # the model keeps the function, which must not keep the model

        def forward(inputs: Any) -> tf.Tensor:
            return owner()(inputs, training=False)  # type: ignore[misc]

        kept = tf.function(forward, reduce_retracing=True)
        # Past Keras's attribute tracking: this is no part of the model to be saved.
        vars(model)[_COMPILED] = kept
    return kept


def answer_raw(
    model: keras.Model, preprocess: Callable[[tf.Tensor], Any], batch_size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from raw examples to logits, for asking about changed examples.

    Args:
        model: From a dict of named inputs to logits (batch, classes).
        preprocess: Raw examples to the model's inputs.
        batch_size: Examples per forward pass.
    """
    answer = inference(model)

    def ask(raw: np.ndarray) -> np.ndarray:
        starts = range(0, len(raw), batch_size)
        logits = [
            np.asarray(answer(preprocess(tf.constant(_listed(raw[start : start + batch_size])))))
            for start in starts
        ]
        return np.concatenate(logits).astype(np.float32)

    return ask


def _listed(raw: np.ndarray) -> Any:
    # TensorFlow makes strings of a list of bytes; an array of objects it refuses.
    return raw.tolist() if raw.dtype == object else raw
