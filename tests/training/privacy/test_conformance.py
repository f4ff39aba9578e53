"""Every registered rule equals the naive per-example loop, over shapes, settings and dtypes.

The list of tests is the registry itself: a rule registered without a case fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.training.privacy.cases import CASES, Case
from tests.training.privacy.naive import (
    DrawingAlike,
    clipped_sum,
    naive_loop,
    per_example_gradients_in_batch,
    relative_error,
)
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.rules import RULES, rule_for
from training.privacy.rules.fallback import FallbackRule
from training.privacy.sites import find_sites

BATCH = 4
Naive = Callable[[dict[str, Any]], list[list[np.ndarray]]]
SILENT = -1  # a label whose loss is zero whatever the logits are
TOLERANCE = {"float32": 1e-5, "mixed_bfloat16": 2e-2}
RULES_OF_CLASSES = [
    (key, type(rule).__name__) for key, rules in sorted(RULES.items()) for rule in rules
]
# The vectorised replay of a loop takes seconds to trace: one example each.
SLOW = "WholeLayerRule"


def goes_as_another(key: tuple[str, str], rule: str) -> bool:
    """Replays of a loop that take half a minute, and cells in `RNN`: other loops go alike."""
    return "ConvLSTM" in key[1] or (key[1] == "RNN" and rule != SLOW)


MARKED = [
    pytest.param(*case, marks=pytest.mark.slow) if goes_as_another(*case) else case
    for case in RULES_OF_CLASSES
]


def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
    return tf.where(labels == SILENT, 0.0, entropy)


@dataclass
class Engine:
    """The private engine on one model, traced once for all batches of `BATCH`, drawing alike."""

    alike: DrawingAlike

    def __post_init__(self) -> None:
        model = self.alike.model
        sites = find_sites(model)

        @tf.function(autograph=False)
        def run(inputs: Any, labels: tf.Tensor, mask: tf.Tensor, clipping_norm: tf.Tensor) -> Any:
            batch = {"inputs": inputs, "labels": labels, "mask": mask}
            found = clipped_gradient_sum(model, loss, batch, clipping_norm, sites)
            return found.gradients, found.norms, found.non_finite

        self.run = run

    def __call__(
        self, inputs: np.ndarray, labels: np.ndarray, mask: np.ndarray, clipping_norm: float
    ) -> tuple[list[np.ndarray], np.ndarray, int]:
        self.alike.rewind()
        gradients, norms, non_finite = self.run(
            tf.constant(inputs),
            tf.constant(labels, tf.int32),
            tf.constant(mask),
            tf.constant(clipping_norm, tf.float32),
        )
        assert norms.dtype == tf.float32
        assert all(g.dtype == tf.float32 for g in gradients)
        return [g.numpy() for g in gradients], norms.numpy(), int(non_finite)


def naive_of(case: Case, model: DrawingAlike) -> Naive:
    if case.draws:
        return partial(per_example_gradients_in_batch, model, loss=loss)
    return naive_loop(model.model, loss)


def check(model: DrawingAlike, case: Case, naive: Naive, tolerance: float) -> None:
    """Asserts everything that a rule promises of a batch."""
    engine = Engine(model)
    inputs, labels = case.inputs(BATCH), np.arange(BATCH) % 3
    everyone = np.ones(BATCH, bool)
    gradients = naive({"inputs": inputs, "labels": labels})
    norms = np.sqrt([sum((g**2).sum() for g in example) for example in gradients])
    assert norms.min() > 1e-3, "the case has no gradient to test"

    for clipping_norm in (norms.min() / 2, np.median(norms), 2 * norms.max()):
        expected, _ = clipped_sum(gradients, everyone, clipping_norm)
        found, found_norms, non_finite = engine(inputs, labels, everyone, clipping_norm)
        assert relative_error(found, expected) <= tolerance
        np.testing.assert_allclose(found_norms, norms, rtol=tolerance)
        assert non_finite == 0

    without_last = everyone.copy()
    without_last[-1] = False
    expected, _ = clipped_sum(gradients, without_last, np.median(norms))
    poisoned = inputs.copy()
    if case.can_be_spoilt:
        poisoned[-1] = np.nan
    # A padding row counts for nothing, and so does an example without a finite gradient.
    padded, _, non_finite = engine(poisoned, labels, without_last, np.median(norms))
    assert relative_error(padded, expected) <= tolerance
    assert non_finite == 0
    if case.can_be_spoilt:
        spoilt, _, non_finite = engine(poisoned, labels, everyone, np.median(norms))
        assert relative_error(spoilt, expected) <= tolerance
        assert non_finite == 1
    nobody, _, _ = engine(poisoned, labels, ~everyone, 1.0)
    assert all(np.array_equal(g, np.zeros_like(g)) for g in nobody)

    silent = np.where(without_last, labels, SILENT)
    quiet, quiet_norms, _ = engine(inputs, silent, everyone, np.median(norms))
    assert relative_error(quiet, expected) <= tolerance
    assert quiet_norms[-1] == 0


def check_alone(model: DrawingAlike, case: Case, naive: Naive, tolerance: float) -> None:
    """One example alone in a batch, run eagerly."""
    inputs, labels = case.inputs(1), np.array([1])
    gradients = naive({"inputs": inputs, "labels": labels})
    expected, norms = clipped_sum(gradients, np.ones(1, bool), 0.1)
    batch = {"inputs": tf.constant(inputs), "labels": tf.constant(labels), "mask": tf.ones(1, bool)}
    model.rewind()
    found = clipped_gradient_sum(model.model, loss, batch, 0.1)
    assert relative_error(found.gradients, expected) <= tolerance
    np.testing.assert_allclose(found.norms, norms, rtol=tolerance)


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def policy(request: pytest.FixtureRequest) -> Any:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def test_every_registered_rule_has_a_case() -> None:
    assert {(key, rule) for key, rules in CASES.items() for rule in rules} == set(RULES_OF_CLASSES)


@pytest.mark.parametrize(("key", "rule"), MARKED, ids=lambda value: str(value))
def test_rule_equals_the_naive_loop(key: tuple[str, str], rule: str, policy: str) -> None:
    if rule == SLOW and policy != "float32":
        pytest.skip("the fallback in half precision is tested in test_fallback.py")
    check_rule(key, rule, policy, examples=1 if rule == SLOW or policy != "float32" else 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "rule"), [x for x in RULES_OF_CLASSES if x[1] != SLOW], ids=lambda value: str(value)
)
def test_rule_equals_the_naive_loop_in_many_shapes(
    key: tuple[str, str], rule: str, policy: str
) -> None:
    check_rule(key, rule, policy, examples=30 if policy == "float32" else 8)


def check_rule(key: tuple[str, str], rule: str, policy: str, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        case = data.draw(CASES[key][rule])
        model = case.model()
        alike = DrawingAlike(model)
        naive = naive_of(case, alike)
        check(alike, case, naive, TOLERANCE[policy])
        served = [
            rule_for(layer)
            for layer in model._flatten_layers()
            if type(layer).__name__ == key[1] and layer.trainable_variables
        ]
        assert served
        assert all(type(found).__name__ == rule for found in served)
        assert rule == SLOW or not any(isinstance(found, FallbackRule) for found in served)
        if policy == "float32" and rule != SLOW:
            check_alone(alike, case, naive, TOLERANCE[policy])

    holds()
