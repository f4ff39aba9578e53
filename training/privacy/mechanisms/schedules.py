"""Noise schedules: from a recipe's words to levels, a public factor for every step.

Curves become stairs of at most `STAIRS` levels, because each level is composed on its own and an
accountant takes its time for each. The noise follows the very same stairs, so that nothing is
approximated: the accounted run is the run.
"""

from __future__ import annotations

from collections.abc import Callable

from configs.schema import MechanismSettings, require

STAIRS = 6

Levels = tuple[tuple[int, float], ...]


def schedule_levels(settings: MechanismSettings, steps: int) -> Levels:
    """(first step, factor on the noise multiplier) of a run of `steps`.

    Raises:
        SettingError: If the schedule does not fit the run.
    """
    return _SCHEDULES[settings.schedule](settings, steps)


def _constant(settings: MechanismSettings, steps: int) -> Levels:
    return ((0, 1.0),)


def _linear(settings: MechanismSettings, steps: int) -> Levels:
    return _stairs(steps, lambda x: 1.0 + x * (settings.final_factor - 1.0))


def _exponential(settings: MechanismSettings, steps: int) -> Levels:
    return _stairs(steps, lambda x: settings.final_factor**x)


def _stairs(steps: int, curve: Callable[[float], float]) -> Levels:
    count = min(STAIRS, steps)
    # The first stair stands at the curve's beginning, the last at its end.
    return tuple((i * steps // count, curve(i / max(1, count - 1))) for i in range(count))


def _step(settings: MechanismSettings, steps: int) -> Levels:
    milestones = sorted(settings.milestones.items())
    require(
        bool(milestones) and milestones[-1][0] < steps,
        "privacy.mechanism.milestones",
        dict(settings.milestones),
        f"steps below the run's {steps}, each with its factor, such as {{{steps // 2}: 0.5}}",
    )
    return tuple(milestones) if milestones[0][0] == 0 else ((0, 1.0), *milestones)


_SCHEDULES: dict[str, Callable[[MechanismSettings, int], Levels]] = {
    "constant": _constant,
    "linear": _linear,
    "exponential": _exponential,
    "step": _step,
}
