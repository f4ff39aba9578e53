"""What of a step XLA is given to compile."""

from __future__ import annotations

import pytest
import tensorflow as tf

from training.steps import compilation
from training.steps.compilation import CompiledPart


@pytest.mark.parametrize(
    ("jit_compile", "expected"), [(True, CompiledPart.STEP), (False, CompiledPart.NOTHING)]
)
def test_one_device_compiles_the_whole_step_where_it_is_asked_to(jit_compile, expected):
    strategy = tf.distribute.get_strategy()
    assert CompiledPart.of(strategy, jit_compile=jit_compile) is expected


def test_nothing_within_a_tpus_step_is_compiled_again(monkeypatch):
    # There is none here.
    monkeypatch.setattr(compilation, "is_tpu", lambda strategy: True)
    strategy = tf.distribute.get_strategy()
    assert CompiledPart.of(strategy, jit_compile=True) is CompiledPart.NOTHING
