"""What `privacy.calibrate` leaves open: steps or batch size, found from epsilon and the noise.

(The noise itself is found by `PrivacyPlan.from_settings`.) Everything looked at is public: the
number of training examples and the recipe. The same recipe and data always give the same answer,
so a run that is resumed finds what it found before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from configs.schema import Recipe, SettingError, TrainingSettings
from training.privacy.group_releases import GroupReleases
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling.balanced_poisson import largest_batch_size

_MOST_STEPS = 10**7


def resolved(
    recipe: Recipe,
    num_records: int,
    steps_of: Callable[[TrainingSettings, int], int],
    shares: Sequence[float] | None = None,
) -> Recipe:
    """The recipe with everything filled in that `privacy.calibrate` asks to be found.

    Args:
        recipe: As it was given.
        num_records: Training examples, or users where the unit of privacy is a user.
        steps_of: Training settings and number of records -> steps of the run.
        shares: Of groups that are to be drawn alike, each one's public share.

    Raises:
        SettingError: If not even one step, or one example a step, keeps to epsilon.
    """
    privacy, training = recipe.privacy, recipe.training
    if not privacy.enabled or privacy.calibrate == "noise":
        return recipe

    def keeps(settings: TrainingSettings) -> bool:
        steps = steps_of(settings, num_records)
        plan = PrivacyPlan.from_settings(
            privacy,
            num_examples=num_records,
            batch_size=settings.batch_size,
            steps=steps,
            shares=shares,
            group_releases=GroupReleases.from_settings(
                recipe.fairness, num_records, settings.batch_size
            ),
        )
        return plan.epsilon(steps) <= float(privacy.epsilon or 0.0)

    if privacy.calibrate == "steps":
        training = replace(training, epochs=None, steps=1)
        found = _most(lambda n: keeps(replace(training, steps=n)), _MOST_STEPS)
    else:
        limit = num_records if shares is None else largest_batch_size(num_records, shares)
        found = _most(lambda n: keeps(replace(training, batch_size=n)), limit)
    if found == 0:
        raise SettingError(
            "privacy.epsilon",
            privacy.epsilon,
            f"a value that privacy.noise_multiplier {privacy.noise_multiplier} keeps for at least "
            f"one step of at least one {privacy.unit}",
        )
    logging.info("Calibrated privacy.%s: %d.", privacy.calibrate, found)
    if privacy.calibrate == "steps":
        return replace(recipe, training=replace(training, steps=found))
    return replace(recipe, training=replace(training, batch_size=found))


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` that fits, within 0.1 % below; 0 if 1 does not."""
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
