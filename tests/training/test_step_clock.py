"""Which steps count as steady."""

from __future__ import annotations

from itertools import count

from training.step_clock import StepClock


def taken(clock: StepClock, steps: int) -> StepClock:
    for number in range(steps):
        with clock.step(number), clock.waiting():
            pass
    return clock


def test_steps_beside_which_frozen_layers_work_are_not_steady() -> None:
    assert taken(StepClock(count().__next__), 9).input_wait_share is None
    assert 0 < (taken(StepClock(lambda: 7), 9).input_wait_share or 0) <= 1


def test_first_steps_warm_up() -> None:
    assert taken(StepClock(), 5).input_wait_share is None
