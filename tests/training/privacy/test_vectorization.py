"""Products of matrices over all examples at once: right where TensorFlow's own kernel is not."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.privacy.rules.vectorization import map_examples, product

SIZES = st.sampled_from([1, 3, 8])


@st.composite
def factors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Two factors whose batch axes broadcast, either of them of lower rank or of size one."""
    batch = draw(st.lists(SIZES, max_size=4))
    shapes = []
    for matrix in ((draw(SIZES), 5), (5, draw(SIZES))):
        own = [size if draw(st.booleans()) else 1 for size in batch]
        dropped = draw(st.integers(0, next((i for i, n in enumerate(own) if n > 1), len(own))))
        is_adjoint = draw(st.booleans())
        shapes.append((own[dropped:], matrix[::-1] if is_adjoint else matrix, is_adjoint))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    x, y = (generator.normal(size=(*own, *matrix)).astype("float32") for own, matrix, _ in shapes)
    return x, y, shapes[0][2], shapes[1][2]


@given(factors())
@settings(max_examples=150, deadline=None)
def test_product_is_numpys_whatever_broadcasts(
    drawn: tuple[np.ndarray, np.ndarray, bool, bool],
) -> None:
    x, y, adjoint_x, adjoint_y = drawn
    expected = (x.swapaxes(-1, -2) if adjoint_x else x) @ (y.swapaxes(-1, -2) if adjoint_y else y)
    found = product(tf.constant(x), tf.constant(y), adjoint_x, adjoint_y)
    # float32 sums of five products of numbers of order one.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_batches_of_one_times_a_weight_that_all_share_are_vectorised_right() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(8, 6, 16)).astype("float32")
    weight = generator.normal(size=(16, 16)).astype("float32")

    def one(row: list[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.matmul(row[0][None], weight)[0], tf.matmul(row[0][None], weight.T[None])[0]]

    times, by_transposed = map_examples(one, [tf.constant(x)], "test")
    np.testing.assert_allclose(times, x @ weight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_transposed, x @ weight.T, rtol=1e-5, atol=1e-5)
