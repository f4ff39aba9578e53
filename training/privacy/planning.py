"""Named ways to make a plan; they are `PrivacyPlan`'s constructors of the same names.

Each is given public numbers and what is wanted, and finds the rest: delta, the parts, and where an
epsilon is asked for the noise that keeps to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.schema import PrivacySettings
from training.privacy.accounting import calibrate_noise, default_delta
from training.privacy.clip_methods import FlatClipping, build_clip_method
from training.privacy.clip_watch import ClipWatch
from training.privacy.group_releases import GroupReleases
from training.privacy.mechanisms import GaussianMechanism, build_mechanism
from training.privacy.sampling import PoissonSampling, build_sampling
from training.privacy.soundness import require_affordable_tables, require_meaningful

if TYPE_CHECKING:
    from training.privacy.plan import PrivacyPlan, Unit


def dp_sgd(
    plan: type[PrivacyPlan],
    *,
    num_examples: int,
    batch_size: int,
    steps: int,
    clipping_norm: float,
    noise_multiplier: float,
    delta: float,
    accountant: str = "pld",
    rows_per_record: int = 1,
    unit: Unit = "example",
) -> PrivacyPlan:
    """DP-SGD as Abadi et al. 2016 (arXiv:1607.00133): Poisson, flat clipping, Gaussian.

    Raises:
        SettingError: If a value is impossible, or delta is 1 / num_examples or more.
    """
    require_meaningful(delta, num_examples)
    return plan(
        PoissonSampling(num_examples, batch_size),
        FlatClipping(clipping_norm),
        GaussianMechanism(noise_multiplier),
        steps=steps,
        delta=delta,
        accountant=accountant,
        rows_per_record=rows_per_record,
        unit=unit,
    )


def user_level_dp_sgd(
    plan: type[PrivacyPlan], *, num_users: int, examples_per_user: int, **further: Any
) -> PrivacyPlan:
    """DP-SGD whose unit is a user (user-wise DP-SGD; Chua et al. 2024, arXiv:2406.14322).

    Args:
        num_users: Users of the training set.
        examples_per_user: Most examples of a user that a step reads.
        further: As `dp_sgd`; `batch_size` is the expected number of users.

    Raises:
        SettingError: As `dp_sgd`.
    """
    return dp_sgd(
        plan, num_examples=num_users, rows_per_record=examples_per_user, unit="user", **further
    )


def from_settings(
    plan: type[PrivacyPlan],
    settings: PrivacySettings,
    *,
    num_examples: int,
    batch_size: int,
    steps: int,
    shares: Sequence[float] | None = None,
    watch: ClipWatch | None = None,
    versions: int = 1,
    group_releases: GroupReleases | None = None,
    counterparts: bool = False,
) -> PrivacyPlan:
    """Builds the plan; calibrates the noise where the settings name an epsilon.

    Args:
        settings: What is asked for.
        num_examples: Training examples, or users where the settings' unit is a user; public.
        batch_size: Expected number of them a step; public.
        steps: Releases planned.
        shares: Of groups that are to be drawn alike, each one's public share.
        watch: Who is clipped; only what is to be released becomes part of the plan.
        versions: Rows that one example takes, versions of it that are bounded together.
        group_releases: Noisy tables of groups that are released beside the steps.
        counterparts: As the plan's.

    Raises:
        SettingError: If a value is impossible or the guarantee cannot be met.
    """
    delta = default_delta(num_examples) if settings.delta is None else settings.delta
    require_meaningful(delta, num_examples)
    noise = settings.noise_multiplier
    sampling = build_sampling(settings.sampling, num_examples, batch_size, shares)
    made = plan(
        sampling,
        build_clip_method(settings.clipping, settings.clipping_norm),
        build_mechanism(settings.mechanism, 1.0 if noise is None else noise, sampling, steps),
        steps=steps,
        delta=delta,
        accountant=settings.accountant,
        neighbours=settings.neighbours,
        rows_per_record=settings.examples_per_user or versions,
        unit=settings.unit,
        watch=None if watch is None or watch.share is None else watch,
        group_releases=group_releases,
        counterparts=counterparts,
    )
    if settings.epsilon is None or settings.noise_multiplier is not None:
        return made
    require_affordable_tables(made, settings.epsilon)
    calibrated = calibrate_noise(
        lambda sigma: made.with_noise(sigma).event(steps),
        settings.epsilon,
        delta,
        settings.accountant,
    )
    return made.with_noise(calibrated)
