"""Records of several rows: a person's rows are bounded together, exactly, for every form."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.privacy.naive import (
    clipped_sum,
    cross_entropy,
    per_example_gradients,
    relative_error,
)
from training.privacy.clip_methods import PerLayerClipping
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.column_blocks import ColumnBlocks
from training.privacy.gradients import (
    GatheredRows,
    Instantiated,
    MatrixLayout,
    OuterProducts,
    TiedTable,
)
from training.privacy.records import RecordSums, by_record
from training.privacy.rules.convolution_kernels import ConvolutionKernels
from training.privacy.rules.window import Window
from training.privacy.sites import find_sites

L = keras.layers
PEOPLE, ROWS = 3, 2
BATCH = PEOPLE * ROWS


def forms() -> dict[str, Any]:
    draw = np.random.default_rng(2).normal

    def normal(*shape: int) -> tf.Tensor:
        return tf.constant(draw(size=shape), tf.float32)

    ids = tf.constant(np.random.default_rng(3).integers(0, 5, (BATCH, 3)), tf.int32)

    def products(time: int, rows: int, columns: int, permutation: Any = (0, 1)) -> OuterProducts:
        layout = MatrixLayout((rows, columns), permutation)
        return OuterProducts(normal(BATCH, time, rows), normal(BATCH, time, columns), layout)

    same, strided = Window((3, 3), (1, 1), (1, 1), "same"), Window((1, 1), (2, 2), (1, 1), "valid")
    return {
        "ghost": products(1, 8, 9),
        "ghost by row, instantiated by record": products(3, 7, 7),
        "instantiated": products(6, 3, 2),
        "blocks": ColumnBlocks((products(3, 4, 2), products(3, 4, 5))),
        "rows": GatheredRows(ids, normal(BATCH, 3, 4), 5),
        "tied": TiedTable(GatheredRows(ids, normal(BATCH, 3, 4), 5), products(2, 4, 5, (1, 0))),
        "itself": Instantiated(normal(BATCH, 3, 2), (1, 0)),
        "convolution": ConvolutionKernels(normal(BATCH, 5, 5, 2), normal(BATCH, 5, 5, 4), same),
        "small images": ConvolutionKernels(normal(BATCH, 2, 2, 8), normal(BATCH, 2, 2, 64), same),
        "pointwise": ConvolutionKernels(normal(BATCH, 4, 4, 2), normal(BATCH, 2, 2, 3), strided),
        "any other": RecordSums(Instantiated(normal(BATCH, 3)), 1),
    }


@pytest.mark.parametrize("name", forms())
def test_form_by_record_is_the_sum_of_its_rows(name: str) -> None:
    form = forms()[name]
    of_rows = form.instantiate().numpy().astype(np.float64)
    expected = of_rows.reshape(PEOPLE, ROWS, *of_rows.shape[1:]).sum(axis=1)
    found = by_record(form, ROWS)
    np.testing.assert_allclose(found.instantiate(), expected, rtol=1e-5, atol=1e-5)
    squares = (expected**2).reshape(PEOPLE, -1).sum(axis=1)
    np.testing.assert_allclose(found.squared_norms(), squares, rtol=1e-5)
    weights = np.array([0.3, 0.0, 2.0])
    total = np.tensordot(weights, expected, axes=1)
    of_sum = found.weighted_sum(tf.constant(weights, tf.float32))
    np.testing.assert_allclose(of_sum, total, rtol=1e-5, atol=1e-5)
    without = found.zeroed_where(tf.constant([True, False, False])).squared_norms()
    np.testing.assert_allclose(without, squares * [0, 1, 1], rtol=1e-5)


def model() -> keras.Model:
    keras.utils.set_random_seed(6)
    ids = keras.Input((4,), dtype="int32", name="ids")
    image = keras.Input((4, 4, 1), name="image")
    table = L.ReversibleEmbedding(3, 5)
    words = L.LayerNormalization()(L.GlobalAveragePooling1D()(table(ids)))
    picture = L.Flatten()(L.Conv2D(2, 3, activation="relu")(image))
    x = L.Dense(5, activation="tanh")(L.Concatenate()([words, picture]))
    return keras.Model({"ids": ids, "image": image}, table(x, reverse=True))


def batch(people: int, rows: int) -> dict[str, Any]:
    generator = np.random.default_rng(7)
    size = people * rows
    return {
        "inputs": {
            "ids": generator.integers(0, 3, (size, 4)).astype("int32"),
            "image": generator.normal(size=(size, 4, 4, 1)).astype("float32"),
        },
        "labels": generator.integers(0, 3, size),
    }


def tensors(batch: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    return tf.nest.map_structure(tf.constant, {**batch, "mask": mask})


def of_people(gradients: list[Any], mask: np.ndarray, rows: int) -> list[list[np.ndarray]]:
    """Every person's gradient: the sum over the real rows, divided by the rows of a record."""
    return [
        [
            sum(mask[i] * gradients[i][v] for i in range(start, start + rows)) / rows
            for v in range(len(gradients[0]))
        ]
        for start in range(0, len(gradients), rows)
    ]


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_clipped_sum_is_that_of_the_naive_loop_over_people(rows: int) -> None:
    net, some = model(), batch(4, rows)
    sites = find_sites(net)
    mask = np.arange(4 * rows) % 4 != 3
    mask[-rows:] = False  # a person without any row
    people = of_people(per_example_gradients(net, some), mask, rows)
    real = mask.reshape(4, rows).any(axis=1)
    norms = np.array([np.sqrt(sum((g**2).sum() for g in person)) for person in people])
    for bound in (norms[real].min() / 2, float(np.median(norms[real])), 2 * norms.max()):
        expected, _ = clipped_sum(people, real, bound)
        found = clipped_gradient_sum(
            net, cross_entropy, tensors(some, mask), bound, sites, rows_per_record=rows
        )
        assert relative_error(found.gradients, expected) <= 1e-5
        np.testing.assert_allclose(found.norms[real], norms[real], rtol=1e-5)
        assert np.array_equal(found.used, real)


def test_layers_of_a_record_are_bounded_together() -> None:
    net, some, mask = model(), batch(3, 2), np.ones(6, bool)
    people = of_people(per_example_gradients(net, some), mask, 2)
    paths = [v.path.rpartition("/")[0] for v in net.trainable_variables]
    bound = 0.5 / np.sqrt(len(set(paths)))
    expected = [np.zeros_like(g) for g in people[0]]
    for person in people:
        for layer in set(paths):
            chosen = [i for i, path in enumerate(paths) if path == layer]
            norm = np.sqrt(sum((person[i] ** 2).sum() for i in chosen))
            for i in chosen:
                expected[i] += min(1.0, bound / norm) * person[i]
    method = PerLayerClipping(0.5)
    found = clipped_gradient_sum(net, cross_entropy, tensors(some, mask), method, rows_per_record=2)
    assert relative_error(found.gradients, expected) <= 1e-5


def test_padding_row_of_a_record_may_hold_anything() -> None:
    net, some = model(), batch(3, 2)
    mask = np.array([True, False, True, True, True, False])
    clean = clipped_gradient_sum(net, cross_entropy, tensors(some, mask), 0.3, rows_per_record=2)
    some["inputs"]["image"][~mask] = np.nan
    found = clipped_gradient_sum(net, cross_entropy, tensors(some, mask), 0.3, rows_per_record=2)
    assert relative_error(found.gradients, [g.numpy() for g in clean.gradients]) <= 1e-6
    assert int(found.non_finite) == 0


def test_record_with_a_broken_row_is_left_out_whole_and_its_rows_are_counted() -> None:
    net, some, mask = model(), batch(3, 2), np.ones(6, bool)
    without = mask & (np.arange(6) // 2 != 1)
    clean = clipped_gradient_sum(net, cross_entropy, tensors(some, without), 0.3, rows_per_record=2)
    some["inputs"]["image"][2] = np.nan
    found = clipped_gradient_sum(net, cross_entropy, tensors(some, mask), 0.3, rows_per_record=2)
    assert relative_error(found.gradients, [g.numpy() for g in clean.gradients]) <= 1e-6
    assert int(found.non_finite) == 2
    assert found.used.numpy().tolist() == [True, False, True]
    assert found.losses.numpy()[2:4].tolist() == [0.0, 0.0]


def test_batch_that_cuts_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match=r"whole records of 4 rows\. Received: 6 rows"):
        clipped_gradient_sum(
            model(), cross_entropy, tensors(batch(3, 2), np.ones(6, bool)), 1.0, rows_per_record=4
        )
