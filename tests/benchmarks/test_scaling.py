"""Growth is told apart from what every step pays once, and short things are timed many at once."""

import tracemalloc

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


class _Clock:
    """Stands for a module's `time`: it goes on by what the runs say they take, and by no more."""

    def __init__(self):
        self.elapsed = self.processor = 0.0

    def perf_counter(self):
        return self.elapsed

    def process_time(self):
        return self.processor


def test_each_run_is_compiled_once_and_timed_as_often_as_asked(monkeypatch):
    clock, calls = _Clock(), {"a": 0, "b": 0}
    monkeypatch.setattr("benchmarks.scaling.time", clock)
    # The turn to compile, and three of five runs each; the least of the two lie in other turns.
    taken = {"a": [9, *[3] * 5, *[2] * 5, *[4] * 5], "b": [9, *[5] * 5, *[7] * 5, *[8] * 5]}

    def run(name):
        clock.elapsed += 10 * taken[name][calls[name]]
        clock.processor += 1 / taken[name][calls[name]]
        calls[name] += 1

    found = fastest_of_each({n: lambda n=n: run(n) for n in calls}, repeats=3, at_once=5)
    assert calls == {"a": 16, "b": 16}
    assert vars(found["a"]) == pytest.approx({"elapsed": 20, "processor": 1 / 4})
    assert vars(found["b"]) == pytest.approx({"elapsed": 50, "processor": 1 / 8})


def test_a_draw_from_a_billion_costs_no_more_than_one_from_a_million():
    sampling(256, [10**4, 10**5], repeats=1)  # imports what draws
    tracemalloc.start()
    try:
        found = sampling(256, [10**6, 10**9], repeats=1)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Whatever held a thousandth of the billion would not fit.
    assert most_bytes < 10**6
    # To visit a billion takes seconds, and a draw a thousandth of one: nothing between is chance.
    assert all(seconds["processor"] < 1 for seconds in found["points"].values())


def test_accounting_is_timed_with_the_plan_it_calibrates():
    ((steps, found),) = accounting([10])
    assert steps == 10
    assert 0.3 < found["noise_multiplier"] < 0.7
    assert found["calibration"]["processor"] > 0
