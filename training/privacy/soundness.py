"""What a plan may not be: values and combinations for which nothing is proven, refused by name.

Checked as a plan is made, so that no plan exists whose epsilon would be a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.schema import require
from training.privacy.accounting import epsilon_of, require_supported
from training.privacy.clip_methods.base import LEAST_BOUND
from training.privacy.events import SCHEDULED
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.sampling import BalancedPoissonSampling

if TYPE_CHECKING:
    from training.privacy.group_releases import GroupReleases
    from training.privacy.plan import PrivacyPlan


def require_sound(plan: PrivacyPlan) -> None:
    """Refuses impossible values, and parts that do not go together; whatever the neighbours.

    Raises:
        SettingError: Names the setting.
    """
    _require_values(plan)
    _require_combination(plan)


def require_proven(plan: PrivacyPlan) -> None:
    """Refuses a plan of which no epsilon is proven for its neighbours.

    Raises:
        SettingError: Names the setting.
    """
    if plan.group_releases is not None:
        _require_tables_proven(plan, plan.group_releases)
    require_supported(plan.event(1), plan.accountant)


def require_meaningful(delta: float, num_examples: int) -> None:
    """Refuses a delta that promises nothing.

    Raises:
        SettingError: If delta is 1 / num_examples or more.
    """
    require(
        delta < 1.0 / num_examples,
        "privacy.delta",
        delta,
        f"less than 1/N = {1 / num_examples:.3g}: at 1/N, publishing one whole record would "
        "already be allowed",
    )


def require_affordable_tables(plan: PrivacyPlan, epsilon: float) -> None:
    """Refuses tables of groups that leave nothing of `epsilon` for the steps.

    Raises:
        SettingError: If they cost all of it, or more.
    """
    tables = plan.tables(plan.steps)
    if plan.group_releases is None or not tables:
        return
    alone = epsilon_of(plan.group_releases.event(tables), plan.delta, plan.accountant)
    require(
        alone < epsilon,
        "fairness.releases.noise_multiplier",
        plan.group_releases.noise_multiplier,
        f"a larger number, or a larger fairness.releases.every: the {tables} tables planned "
        f"cost epsilon {alone:.4g} alone, and privacy.epsilon is {epsilon:g}",
    )


def _require_values(plan: PrivacyPlan) -> None:
    require(
        plan.rows_per_record >= 1,
        "privacy.examples_per_user",
        plan.rows_per_record,
        "a whole number >= 1",
    )
    require(
        1 <= plan.batch_size <= plan.num_examples,
        "training.batch_size",
        plan.batch_size,
        f"at most the {plan.num_examples} training {plan.unit}s",
    )
    require(plan.steps >= 1, "training.steps", plan.steps, "a whole number >= 1")
    require(
        plan.clipping_norm >= LEAST_BOUND,
        "privacy.clipping_norm",
        plan.clipping_norm,
        f"a number >= {LEAST_BOUND:g}: float32 loses the norms of smaller gradients",
    )
    require(
        plan.noise_multiplier > 0,
        "privacy.noise_multiplier",
        plan.noise_multiplier,
        "a number > 0",
    )
    require(0 < plan.delta < 1, "privacy.delta", plan.delta, "a probability in (0, 1)")


def _require_combination(plan: PrivacyPlan) -> None:
    independent = isinstance(plan.mechanism, GaussianMechanism)
    require(
        not (plan.by_user and isinstance(plan.sampling, BalancedPoissonSampling)),
        "fairness.balanced_sampling",
        plan.sampling.method,
        "null with privacy.unit: user, whose examples may be of several groups",
    )
    require(
        not plan.clipping.adapts or independent,
        "privacy.clipping.method",
        plan.clipping.method,
        "a bound that stays, with noise that steps share (privacy.mechanism.method: "
        f"{plan.mechanism.method}); an adaptive one goes with gaussian",
    )
    require(
        plan.watch is None or (plan.watch.share is not None and independent),
        "privacy.clipping.watch.mode",
        "released",
        "marked, or null, with noise that steps share (privacy.mechanism.method: "
        f"{plan.mechanism.method}): counts are released with gaussian noise of their own",
    )


def _require_tables_proven(plan: PrivacyPlan, tables: GroupReleases) -> None:
    key, value = "fairness.releases.noise_multiplier", tables.noise_multiplier
    require(
        isinstance(plan.mechanism, GaussianMechanism) and isinstance(plan.sampling, SCHEDULED),
        key,
        value,
        "null with steps that depend on each other; beside tables of groups is proven "
        "privacy.mechanism.method: gaussian with privacy.sampling.method: "
        + ", ".join(str(vars(cls)["method"]) for cls in SCHEDULED),
    )
    require(
        plan.rows_per_record == 1 and not plan.by_user,
        key,
        value,
        "null where a record is several examples: one of them is in several cells of a table",
    )
