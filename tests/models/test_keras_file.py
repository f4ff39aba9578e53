"""`.keras` files are whole or absent, and never run code."""

import keras
import pytest

import models
from configs.schema import UserError


def test_a_missing_or_foreign_file_is_one_clear_line(tmp_path):
    foreign = tmp_path / "foreign.keras"
    foreign.write_text("no archive")
    reasons = {tmp_path / "missing.keras": "No such file", foreign: r"expected a \.keras file"}
    for path, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as caught:
            models.load_keras(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_carries_code_is_refused(tmp_path):
    entry = keras.Input((2,))
    model = keras.Model(entry, keras.layers.Lambda(lambda x: x + 1, output_shape=(2,))(entry))
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match=r"[Ll]ambda"):
        models.load_keras(tmp_path / "lambda.keras")


def test_an_interrupted_write_leaves_the_earlier_file(tmp_path):
    entry = keras.Input((2,))
    good = keras.Model(entry, keras.layers.Dense(3, name="only")(entry))
    path = tmp_path / "model.keras"
    models.save_keras(good, path)
    before = path.read_bytes()

    class Unwritable(keras.layers.Identity):
        def get_config(self):
            raise RuntimeError("stopped half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        models.save_keras(keras.Model(entry, Unwritable()(entry)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
