"""What `--explain` says is what the engine does."""

from __future__ import annotations

import keras

from tests.training.privacy.naive import cross_entropy
from training.privacy.cost_model import Form
from training.privacy.explanation import explain, print_explanations

L = keras.layers


def model() -> keras.Model:
    x = keras.Input((64, 4))
    y = L.Dense(4, name="long")(x)
    y = L.LayerNormalization(name="norm")(y)
    return keras.Model(x, L.Dense(3, name="head")(L.GlobalAveragePooling1D()(y)))


def test_every_trained_variable_is_explained_in_order():
    built = model()
    explanations = explain(built, cross_entropy, batch_size=2, memory_bytes=1e6)
    assert [line.variable for line in explanations] == [v.path for v in built.trainable_variables]
    by_name = {line.variable: line for line in explanations}
    assert by_name["long/kernel"].rule == "DenseRule"
    assert by_name["long/kernel"].form == Form.INSTANTIATE.value
    assert by_name["long/kernel"].work.plain_flops == 2 * 2 * 64 * 4 * 4
    assert by_name["norm/gamma"].form == "Instantiated"
    assert by_name["head/kernel"].form == Form.GHOST.value


def test_without_memory_nothing_is_kept():
    for line in explain(model(), cross_entropy, batch_size=2, memory_bytes=0.0):
        assert line.form != Form.INSTANTIATE.value


def test_the_table_names_variable_form_and_what_is_kept(capsys):
    print_explanations(explain(model(), cross_entropy, batch_size=2, memory_bytes=1e6))
    shown = capsys.readouterr().out
    assert "long/kernel" in shown
    assert "instantiate" in shown
    assert "kept between norm and sum" in shown
