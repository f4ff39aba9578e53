"""What a TPU would be asked to do: seen on a CPU, before the first step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.test_xla import PLAN, labelled, small_bert, small_residual_network
from training.losses import cross_entropy
from training.node_layers import NodeLayers
from training.privacy.clip_methods import FlatClipping
from training.privacy.half_precision import use_whole_float32
from training.privacy.measured_precision import require_whole_float32
from training.privacy.mechanisms import BandedMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import ShuffledSampling
from training.steps import PlainStep, PrivateStep, TrainingStep
from training.tpu_lowering import Lowering, lowering_of
from training.xla_operations import (
    Obstacle,
    _computation,
    compiler_here,
    obstacles_of,
    refuse_obstacles,
)

Built = tuple[keras.Model, dict[str, Any]]


def step_of(model: keras.Model, private: bool = False, plan: PrivacyPlan = PLAN) -> TrainingStep:
    classes = [str(i) for i in range(model.output.shape[-1])]
    strategy = tf.distribute.get_strategy()
    parts = (model, cross_entropy(classes), keras.optimizers.Adam(1e-3), strategy)
    if private:
        return PrivateStep(*parts, plan=plan, accumulates=True)
    return PlainStep(*parts, accumulates=True)


def specification(batch: dict[str, Any]) -> Any:
    return tf.nest.map_structure(tf.TensorSpec.from_tensor, batch)


def obstacles_in(built: Built, private: bool = False) -> list[Obstacle]:
    model, batch = built
    return obstacles_of(step_of(model, private).trace(specification(batch)), model)


@pytest.fixture
def rounded_float32():
    """TensorFlow's default."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.fixture
def whole_float32(rounded_float32):
    use_whole_float32()


# Noise for this many weights comes from ThreeFry, in programs of its own.
def wide() -> Built:
    features = keras.Input((300,), name="features")
    hidden = keras.layers.Dense(300, activation="relu")(features)
    model = keras.Model({"features": features}, keras.layers.Dense(3)(hidden))
    return model, labelled({"features": np.ones((8, 300), "float32")}, 3)


# Products by which `measured_precision` judges a device.
MEASURED = {"MatMul", "BatchMatMulV2", "Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"}


@pytest.mark.parametrize("build", [small_bert, small_residual_network, wide])
def test_private_step_can_be_compiled_and_asks_for_whole_float32(build, whole_float32):
    model, batch = build()
    step = step_of(model, private=True)
    assert obstacles_of(step.trace(specification(batch)), model) == []
    lowering = lowering_of(step, specification(batch))
    assert lowering.whole_products == lowering.products > 3
    # Norms and sums consist of those that are measured; what else multiplies lies in layers.
    graph = step.trace(specification(batch))[0].as_graph_def()
    products = [n for n, _ in _computation(graph) if re.search("MatMul|Conv|Einsum", n.op)]
    own = {node.op for node in products if re.search(r"(^|/)(norms|sums)/", node.name)}
    assert own
    assert own <= MEASURED


def test_without_asking_no_product_is_whole(rounded_float32):
    model, batch = wide()
    lowering = lowering_of(step_of(model), specification(batch))
    # Forward and backward of two layers; the gradient at the features is not needed.
    assert lowering == Lowering(products=5, whole_products=0)


class Doing(keras.layers.Layer):
    """A layer in the middle of a model that does what a TPU may not be able to do."""

    def __init__(self, do: Callable[[tf.Tensor], tf.Tensor]):
        super().__init__(name="culprit")
        self._do = do

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + tf.ensure_shape(self._do(x), x.shape)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def model_doing(do: Callable[[tf.Tensor], tf.Tensor]) -> Built:
    block = keras.Sequential([keras.layers.Dense(5), Doing(do)], name="block")
    features = keras.Input((4,), name="features")
    model = keras.Model({"features": features}, keras.layers.Dense(3)(block(features)))
    return model, labelled({"features": np.ones((8, 4), "float32")}, 3)


def called_in_python(x: tf.Tensor) -> tf.Tensor:
    return tf.stop_gradient(tf.py_function(lambda y: 2 * y, [x], tf.float32))


def with_print(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.print(x, summarize=1)]):
        return tf.identity(x)


DOINGS: dict[str, tuple[Callable[[tf.Tensor], tf.Tensor], str, str]] = {
    "Python": (called_in_python, "EagerPyFunc", "calls Python on the host"),
    "unique": (
        lambda x: (
            0.0 * x + tf.cast(tf.reduce_min(tf.unique(tf.cast(x[:, 0], tf.int32))[0]), tf.float32)
        ),
        "Unique",
        "a result whose size depends on the data",
    ),
    "where": (
        lambda x: 0.0 * x + tf.reduce_sum(tf.cast(tf.where(x > 0), tf.float32)),
        "Where",
        "tf.where with three arguments",
    ),
    "text": (
        lambda x: 0.0 * x + tf.cast(tf.strings.length(tf.strings.as_string(x)), tf.float32),
        "AsString",
        "Do it in preprocessing",
    ),
    "print": (
        lambda x: 0.0 * x + with_print(x),
        "PrintV2",
        "speaks to the host",
    ),
    "random": (
        lambda x: x * tf.stop_gradient(tf.random.gamma(tf.shape(x), 1.0)),
        "RandomGamma",
        "keras.random",
    ),
    "sparse": (
        lambda x: 0.0 * x + tf.sparse.reduce_sum(tf.sparse.from_dense(x)),
        "SparseReduceSum",
        "Use dense tensors",
    ),
    "type": (
        lambda x: x * tf.cast(tf.math.real(tf.cast(x, tf.complex128)), tf.float32),
        "Cast",
        "no XLA kernel for complex128, float32",
    ),
    "no kernel": (
        lambda x: x * tf.stop_gradient(tf.math.special.bessel_j0(x)),
        "BesselJ0",
        "has no XLA kernel. Use other",
    ),
    "within a loop": (
        lambda x: tf.while_loop(
            lambda i, _: i < 2,
            lambda i, y: (i + 1, tf.stop_gradient(tf.math.special.bessel_j0(y))),
            (tf.constant(0), x),
        )[1],
        "BesselJ0",
        "has no XLA kernel",
    ),
    "within a function": (
        tf.function(lambda x: tf.stop_gradient(tf.math.special.bessel_j0(x))),
        "BesselJ0",
        "has no XLA kernel",
    ),
}


@pytest.mark.parametrize(("do", "operation", "said"), DOINGS.values(), ids=DOINGS)
def test_operation_that_no_tpu_compiles_is_named_with_layer_and_remedy(do, operation, said):
    found = obstacles_in(model_doing(do))
    (obstacle,) = [o for o in found if o.operation == operation]
    assert obstacle.layer == "block/culprit"
    assert said in str(obstacle)
    with pytest.raises(UserError, match=r"training\.strategy: a TPU cannot compile the step: "):
        refuse_obstacles(found)


HERE = compiler_here(in_one_order=False, within=False)


def test_operation_that_xla_does_not_compile_on_this_machine_is_named_likewise():
    model, batch = model_doing(called_in_python)
    graphs = step_of(model, False).trace(specification(batch))
    (obstacle,) = obstacles_of(graphs, model, HERE)
    assert (obstacle.operation, obstacle.layer) == ("EagerPyFunc", "block/culprit")
    with pytest.raises(UserError, match=r"training\.jit_compile: XLA cannot compile the step: "):
        refuse_obstacles([obstacle], HERE)


def test_size_that_the_data_decide_is_no_obstacle_but_on_a_tpu():
    model, batch = model_doing(DOINGS["unique"][0])
    graphs = step_of(model, False).trace(specification(batch))
    assert [o.operation for o in obstacles_of(graphs, model)] == ["Unique"]
    assert obstacles_of(graphs, model, HERE) == []


def pooling() -> Built:
    image = keras.Input((8, 8, 3), name="image")
    pooled = keras.layers.MaxPooling2D(name="pool")(keras.layers.Conv2D(4, 3)(image))
    model = keras.Model({"image": image}, keras.layers.Dense(3)(keras.layers.Flatten()(pooled)))
    return model, labelled({"image": np.ones((8, 8, 8, 3), "float32")}, 3)


@pytest.mark.parametrize("in_one_order", [False, True])
def test_gradient_of_max_pooling_is_an_obstacle_only_where_sums_must_keep_their_order(
    in_one_order,
):
    model, batch = pooling()
    graphs = step_of(model, False).trace(specification(batch))
    compiler = compiler_here(in_one_order=in_one_order, within=False)
    found = [(o.operation, o.layer) for o in obstacles_of(graphs, model, compiler)]
    assert found == ([("MaxPoolGrad", "pool")] if in_one_order else [])


def test_private_step_is_looked_over_likewise():
    (obstacle,) = obstacles_in(model_doing(called_in_python), private=True)
    assert (obstacle.operation, obstacle.layer) == ("EagerPyFunc", "block/culprit")


def test_operation_is_named_once_a_layer_however_often_it_is_there():
    found = obstacles_in(model_doing(lambda x: x + called_in_python(x) + called_in_python(x)))
    assert [o.operation for o in found] == ["EagerPyFunc"]
    with pytest.raises(UserError, match=r" 1 more such operation\(s\); sterling check-tpu lists"):
        refuse_obstacles([*found, *found])


def test_only_the_replicas_part_of_a_tpus_graph_is_looked_at():
    graph = tf.Graph()
    with graph.as_default():
        host, replica = (tf.strings.as_string(tf.constant(1.0), name=n) for n in ("host", "core"))
        replica.op._set_attr("_tpu_replicate", tf.compat.v1.AttrValue(s=b"cluster"))
    (obstacle,) = obstacles_of([graph], keras.Sequential())
    assert obstacle.node == replica.op.name
    assert host.op.name != obstacle.node


def test_layer_is_found_whether_or_not_its_graph_has_numbered_it():
    block = keras.Sequential([keras.layers.Dense(2, name="dense_1")], name="block")
    model = keras.Sequential(
        [keras.Input((2,)), block, keras.layers.Dense(2, name="dense")], name="m"
    )
    layers = NodeLayers(model)
    assert layers.path_in("m/block/dense_1/MatMul") == "block/dense_1"
    assert layers.path_in("gradient_tape/m_2/block_1/dense_1_3/MatMul") == "block/dense_1"
    assert layers.path_in("m_1/dense_1/MatMul") == "dense"
    assert layers.path_in("cond/MatMul") == ""


def test_noise_that_is_remembered_is_made_by_a_program_that_is_looked_over_too(whole_float32):
    plan = PrivacyPlan(
        ShuffledSampling(1000, 16),
        FlatClipping(1.0),
        BandedMechanism(1.0, (1.0, 0.5, 0.25)),
        steps=8,
        delta=1e-4,
    )
    model, batch = wide()
    step = step_of(model, private=True, plan=plan)
    graphs = step.trace(specification(batch))
    assert len(graphs) == 2
    assert obstacles_of(graphs, model) == []
    lowering = lowering_of(step, specification(batch))
    assert lowering.whole_products == lowering.products


def test_size_that_must_be_known_when_the_step_is_compiled_is_refused():
    def as_many_as_the_data_say(x: tf.Tensor) -> tf.Tensor:
        return 0.0 * x + tf.reduce_sum(tf.range(tf.reduce_max(x)))

    model, batch = model_doing(as_many_as_the_data_say)
    with pytest.raises(UserError, match=r"XLA cannot translate the step: .*compile-time const"):
        lowering_of(step_of(model), specification(batch))


def test_size_that_only_the_data_decide_is_seen_in_what_xla_takes():
    model, batch = model_doing(DOINGS["unique"][0])
    with pytest.raises(UserError, match="a size in the step is not known when it is compiled"):
        lowering_of(step_of(model), specification(batch))


def test_device_that_multiplies_float32_whole_is_taken():
    require_whole_float32(tf.distribute.get_strategy())


@pytest.mark.parametrize("kept_bits", [8, 11], ids=["bfloat16", "TensorFloat-32"])
def test_device_that_rounds_the_operands_is_refused(monkeypatch, kept_bits):
    product = tf.matmul

    def rounded(x: tf.Tensor) -> tf.Tensor:
        dropped = 24 - kept_bits
        bits = tf.bitcast(x, tf.int32) + (1 << (dropped - 1))
        return tf.bitcast(tf.bitwise.bitwise_and(bits, -(1 << dropped)), tf.float32)

    monkeypatch.setattr(tf, "matmul", lambda a, b, **further: product(rounded(a), rounded(b)))
    with pytest.raises(UserError, match="rounds the operands of BatchMatMul, MatMul to less than"):
        require_whole_float32(tf.distribute.get_strategy())
