"""What the timing of private steps says of the steps that it timed."""

from argparse import Namespace

import pytest

from benchmarks.dp_step import compared, modes_of

SECONDS = {"plain": [1.0, 2.0, 1.0], "private": [1.2, 2.2, 1.3], "keras": [1.1, 1.1, 4.0]}


def test_private_is_compared_with_plain_by_medians_and_minima():
    found = compared(SECONDS, SECONDS, batch=13)
    assert found["ratio"] == pytest.approx(1.3)
    assert found["ratio_of_minima"] == pytest.approx(1.2)
    assert found["cpu_ratio"] == pytest.approx(1.3)
    assert found["keras_train_on_batch_s"] == 1.1
    assert found["examples_per_s"] == pytest.approx(10.0)


@pytest.mark.parametrize("mode", ["plain", "private"])
def test_one_kind_alone_is_compared_with_nothing(mode):
    found = compared({mode: SECONDS[mode]}, {mode: SECONDS[mode]}, batch=2)
    assert set(found) == {f"{mode}_s", f"{mode}_min_s", "examples_per_s"}
    assert found["examples_per_s"] == pytest.approx(2 / found[f"{mode}_s"])


def test_mode_chooses_what_is_timed():
    assert modes_of(Namespace(mode="both", keras=False)) == ["plain", "private"]
    assert modes_of(Namespace(mode="both", keras=True)) == ["plain", "private", "keras"]
    assert modes_of(Namespace(mode="private", keras=False)) == ["private"]
