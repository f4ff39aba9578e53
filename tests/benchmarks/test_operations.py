"""Operations are counted to the family of work that they belong to."""

import pytest

from benchmarks.operations import family_of, measure


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("stateless_random_uniform_92", "StatelessRandomUniformFullIntV2", "noise"),
        ("gradient_tape/resnet50_1/conv1/Conv2DBackpropInput", "Conv2DBackpropInput", "backward"),
        ("sgd/Mul_417", "Mul", "optimizer"),
        ("cond_42/else/_421/cond_42/MatMul_4", "MatMul", "clipped sums"),
        ("resnet50_1/conv1_conv_1/BiasAdd", "_FusedConv2D", "forward"),
        ("MatMul_33", "BatchMatMulV2", "norms"),
    ],
)
def test_family_is_read_from_the_name(name, kind, family):
    assert family_of(name, kind).startswith(family)


def test_a_profile_sees_the_operations_of_a_step():
    import tensorflow as tf

    run = tf.function(lambda x: tf.reduce_sum(tf.matmul(x, x)))
    x = tf.ones([64, 64])
    run(x)
    families, kinds = measure(lambda: run(x))
    assert sum(families.values()) > 0
    assert any(kind.endswith("MatMul") for kind in kinds)
