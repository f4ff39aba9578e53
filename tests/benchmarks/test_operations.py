"""Operations are counted to the family of work that they belong to."""

import pytest

from benchmarks.operations import by_layer, family_of, measure


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("stateless_random_uniform_92", "StatelessRandomUniformFullIntV2", "noise"),
        ("gradient_tape/resnet50_1/conv1/Conv2DBackpropInput", "Conv2DBackpropInput", "backward"),
        ("sgd/Mul_417", "Mul", "optimizer"),
        ("cond_42/else/_421/cond_42/sums/conv1_conv/kernel/MatMul_4", "MatMul", "clipped sums"),
        ("resnet50_1/conv1_conv_1/BiasAdd", "_FusedConv2D", "forward"),
        ("norms/conv1_conv/kernel/MatMul_33", "BatchMatMulV2", "norms"),
        ("Minimum_2", "Minimum", "the rest"),
    ],
)
def test_family_is_read_from_the_name(name, kind, family):
    assert family_of(name, kind).startswith(family)


def test_a_profile_tells_what_each_layer_costs():
    import keras
    import numpy as np
    import tensorflow as tf

    from training.losses import cross_entropy
    from training.privacy import clipped_gradient_sum

    x = keras.Input((16, 8))
    wide = keras.layers.Dense(64, name="wide")(x)
    model = keras.Model(x, keras.layers.Dense(2, name="last")(keras.layers.Flatten()(wide)))
    batch = {
        "inputs": tf.constant(np.random.default_rng(0).normal(size=(4, 16, 8)), tf.float32),
        "labels": tf.constant([0, 1, 0, 1]),
        "mask": tf.ones([4], tf.bool),
    }
    loss = cross_entropy(["0", "1"])
    run = tf.function(lambda: clipped_gradient_sum(model, loss, batch, 1.0).gradients)
    run()
    operations = measure(run, steps=1)
    assert any(kind.endswith("MatMul") for _, kind in operations)
    layers = by_layer(operations, model)
    for name in ("wide", "last"):
        assert {"forward", "norms", "clipped sums"} <= {
            k for k, ms in layers[name].items() if ms > 0
        }
