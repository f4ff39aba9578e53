"""The guarantee of a plan in words, with every assumption it rests on.

One text for both units of privacy: what is said of examples is said of users where they are what
the plan draws and bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.privacy.plan import PrivacyPlan

_RECORD = {
    "example": "one training example",
    "user": "one user with all of their training examples",
}
_PUBLIC = {"example": "records", "user": "users"}
_NOT_COVERED = {
    "example": "and people who appear in more than one example",
    "user": "people who appear under more than one user name, and how many examples users have",
}
_HIDDEN = {
    "add_remove": "adding or removing {record}",
    "zero_out": "blanking {record} (zero-out: the record stays counted and contributes nothing)",
    "replace_one": "replacing {record} by any other",
}


def statement_of(
    plan: PrivacyPlan, releases: int, *, reproducible: bool, tables: int | None = None
) -> str:
    """The guarantee in words, with every assumption it rests on.

    Args:
        plan: What was planned.
        releases, tables: As in `PrivacyPlan.event`.
        reproducible: Whether a recipe fixes the seed of the noise.
    """
    unit = plan.unit
    hidden = _HIDDEN[str(plan.neighbours)].format(record=_RECORD[unit])
    text = (
        f"The trained weights are ({plan.epsilon(releases, tables):.4g}, {plan.delta:.3g})-"
        f"differentially private with respect to {hidden}. "
        f"{releases} releases; {plan.sampling.describe(unit)}; {_rows_of_users(plan)}"
        f"{plan.clipping.describe(unit)}; "
        f"{plan.mechanism.describe(plan.noise_stddev)}{_beside(plan)}"
        f"{_tables(plan, releases, tables)}. Accounted with "
        f"{plan.accountant.upper()} (dp_accounting). Assumed public: which {_PUBLIC[unit]} "
        "form the training split and their number, the recipe, and the label and group names. "
        "Not covered: choices made by looking at the training data before this run (features, "
        "hyper-parameters), measurements of training examples, validation and test "
        f"examples, {_NOT_COVERED[unit]}. Floating-point noise is not "
        "proof against least-significant-bit attacks (Mironov 2012)."
    )
    if 0 < releases < plan.steps:
        text += (
            " The number of releases is taken as fixed beforehand: if training was stopped "
            "early because of what it had released (early stopping, a look at the weights), "
            f"what is proven is the epsilon of all {plan.steps} planned releases, "
            f"{plan.epsilon(plan.steps):.4g}."
        )
    if reproducible:
        text += (
            " The recipe fixes the random seed: whoever knows it can subtract the noise, so "
            "the guarantee holds only against those who do not. Leave training.seed unset to "
            "publish."
        )
    return text


def _tables(plan: PrivacyPlan, releases: int, tables: int | None) -> str:
    count = plan.tables(releases) if tables is None else tables
    if plan.group_releases is None or not count:
        return ""
    return f"; {plan.group_releases.describe(count, str(plan.neighbours))}"


def _rows_of_users(plan: PrivacyPlan) -> str:
    """One clause of the statement."""
    if not plan.by_user:
        return ""
    return (
        f"of each drawn user at most {plan.rows_per_record} examples, chosen at random anew; "
        f"a user's gradient is the sum of theirs divided by {plan.rows_per_record}; "
    )


def _beside(plan: PrivacyPlan) -> str:
    """Clauses on what a recipe for fairness adds."""
    said = ""
    if plan.augmented:
        said += f"; each example bounded together with all of its {plan.rows_per_record} versions"
    if plan.counterparts:
        said += (
            "; an image's counterparts are part of its example, each taken to be made from that "
            "image alone, and how many an image has is taken as public"
        )
    if plan.watch is not None:
        said += f"; {plan.watch.describe(plan.noise_multiplier, plan.unit)}"
    return said
