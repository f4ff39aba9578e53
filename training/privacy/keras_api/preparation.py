"""From a compiled model and examples to a step: what cannot be private is refused here."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError
from training.privacy.clipping import PerExampleLoss
from training.privacy.inspection import probe
from training.privacy.keras_api.losses import labels_of
from training.privacy.keras_api.sources import Source
from training.privacy.keras_api.step import KerasStep
from training.privacy.keras_api.streams import refuse_batches_as_examples
from training.privacy.keras_api.wrapped import WrappingModel
from training.privacy.plan import PrivacyPlan

_PROBED_EXAMPLES = 4


def step_for(
    model: WrappingModel,
    plan: PrivacyPlan,
    loss: PerExampleLoss,
    source: Source,
    measured: Sequence[keras.Variable] = (),
) -> KerasStep:
    """The step that trains `model.inner`; not yet traced, which refuses what its graph shows.

    Args:
        model: Compiled; built here, on the first examples, where it is not.
        plan: Sets clipping and noise.
        loss: Per-example, of `compile`'s.
        source: The examples.
        measured: Variables of the user's metrics, which the loss must not read.

    Raises:
        UserError: If model or loss cannot be private; names layer and remedy.
    """
    inner, strategy = model.inner, model.distribute_strategy
    # From all over, because neighbours may be alike (data sorted by label).
    rows = np.linspace(0, source.num_examples - 1, min(_PROBED_EXAMPLES, source.num_examples))
    few = tf.nest.map_structure(tf.convert_to_tensor, source.read(rows.astype(np.int64)))
    if not inner.built:
        with strategy.scope():
            inner(few["inputs"])
        model.built = True
    if not inner.trainable_variables:
        raise UserError("model: has no trainable weight. Set trainable = True where it learns.")
    refuse_batches_as_examples(inner, few["inputs"])
    probe(inner, loss, few, measured=measured)
    if strategy.num_replicas_in_sync > 1:
        # Builds the metrics outside the replicas, which must not make variables.
        model.test_on_batch(few["inputs"], labels_of(few["labels"]))
        model.reset_metrics()
    return KerasStep(
        inner,
        loss,
        model.optimizer,
        strategy,
        metrics_of=model,
        plan=plan,
        accumulates=True,
        jit_compile=bool(model.jit_compile),
        steps_per_execution=model.steps_per_execution,
    )
