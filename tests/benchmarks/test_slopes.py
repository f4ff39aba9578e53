"""The slope of cost: least squares in logarithms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.slopes import log_log_slope, peak_memory


@given(
    power=st.floats(0.1, 3.0),
    factor=st.floats(1e-3, 1e3),
    sizes=st.lists(st.integers(1, 4096), min_size=2, max_size=6, unique=True),
)
def test_slope_of_a_power_law_is_its_power(power, factor, sizes):
    seconds = [factor * size**power for size in sizes]
    assert log_log_slope(sizes, seconds) == pytest.approx(power, rel=1e-6)


def test_a_constant_part_makes_the_slope_less_than_one():
    assert 0 < log_log_slope([1, 2, 4], [1.0 + 1, 1.0 + 2, 1.0 + 4]) < 1


def test_one_size_has_no_slope():
    with pytest.raises(ValueError, match="two different sizes"):
        log_log_slope([8, 8], [1.0, 1.1])


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_logical_batch():
    found = peak_memory("bert", size=8, batch=8, accumulate=[2, 32])
    assert [point["examples"] for point in found["points"]] == [16, 256]
    # Less than one more copy of the weights (91 MB). 256 examples at once would hold activations of
    # about 0.4 GB.
    first, last = (point["peak_gb"] for point in found["points"])
    assert last - first < 0.09
