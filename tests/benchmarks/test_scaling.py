"""Growth is told apart from what every step pays once, and short things are timed many at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling import accounting, fastest_of_each, power_beside_a_constant, sampling


@given(
    constant=st.floats(0.0, 10.0),
    factor=st.floats(0.1, 10.0),
    power=st.floats(0.2, 2.5),
)
def test_power_is_found_beside_any_constant(constant, factor, power):
    sizes = [8, 16, 40]
    seconds = [constant + factor * size**power for size in sizes]
    assert power_beside_a_constant(sizes, seconds) == pytest.approx(power, rel=1e-3)


def test_two_points_or_a_shrinking_cost_have_no_power():
    assert power_beside_a_constant([8, 16], [1.0, 2.0]) is None
    assert power_beside_a_constant([8, 16, 32], [2.0, 1.0, 3.0]) is None


def test_each_run_is_compiled_once_and_timed_as_often_as_asked():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    found = fastest_of_each({n: lambda n=n: count(n) for n in calls}, repeats=3, at_once=5)
    assert calls == {"a": 16, "b": 16}
    assert all(0 <= seconds.processor < 0.1 for seconds in found.values())


def test_a_draw_from_a_billion_takes_no_longer_than_one_from_a_million():
    found = sampling(256, [10**6, 10**9], repeats=3)
    small, large = (seconds["processor"] for seconds in found["points"].values())
    assert large < 10 * small + 1e-3


def test_accounting_is_timed_with_the_plan_it_calibrates():
    ((steps, found),) = accounting([10])
    assert steps == 10
    assert 0.3 < found["noise_multiplier"] < 0.7
    assert found["calibration"]["processor"] > 0
