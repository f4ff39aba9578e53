"""Games that are refused: impossible, not covered by privacy, or without people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configs.schema import (
    AdversarySettings,
    ConstraintSettings,
    FairnessSettings,
    GroupDroSettings,
    PenaltySettings,
    Recipe,
    ReleaseSettings,
    SettingError,
)
from tests.training.fairness.people import (
    ADVERSARY,
    CALIBRATED,
    DRO,
    NOISY_COUNTS,
    ODDS,
    PARITY,
    PRIVATE,
    RELEASES,
    changed,
    privately,
    written,
)
from training.session import open_session

LOSS = ConstraintSettings("bounded_group_loss", loss_bound=0.3)


@pytest.mark.parametrize(
    ("fairness", "named"),
    [
        (PARITY, "fairness.releases.noise_multiplier.*fairness.constraint"),
        (DRO, "fairness.releases.noise_multiplier.*fairness.group_dro"),
        (ADVERSARY, "fairness.adversary.parity: expected null with privacy.*fairness.constraint"),
        (
            FairnessSettings(attribute="ward", releases=RELEASES),
            "fairness.releases.noise_multiplier: expected null without",
        ),
        (replace(NOISY_COUNTS, constraint=PARITY.constraint), "tables serve one of them"),
    ],
    ids=["constraint", "dro", "adversary", "idle tables", "two games"],
)
def test_what_privacy_does_not_cover_is_refused_with_the_remedy(fairness, named):
    with pytest.raises(SettingError, match=named):
        Recipe(privacy=PRIVATE, fairness=fairness)


def test_tables_without_privacy_are_refused():
    with pytest.raises(SettingError, match=r"fairness.releases.noise_multiplier.*is false"):
        Recipe(fairness=privately(PARITY))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: replace(PARITY, attribute=None), "fairness.attribute"),
        (lambda: replace(PARITY, group_dro=GroupDroSettings(0.1)), "fairness"),
        (lambda: replace(ADVERSARY, penalty=PenaltySettings("mmd")), "fairness.penalty.measure"),
        (lambda: ConstraintSettings("bounded_group_loss"), "fairness.constraint.loss_bound"),
        (
            lambda: ConstraintSettings("demographic_parity", loss_bound=1.0),
            "fairness.constraint.loss_bound",
        ),
        (lambda: ConstraintSettings(slack=1.0), "fairness.constraint.slack"),
        (lambda: ConstraintSettings(step_size=0.0), "fairness.constraint.step_size"),
        (lambda: ConstraintSettings(multiplier_bound=-1.0), "fairness.constraint.multiplier_bound"),
        (lambda: ConstraintSettings(memory=1.0), "fairness.constraint.memory"),
        (lambda: GroupDroSettings(0.0), "fairness.group_dro.step_size"),
        (lambda: GroupDroSettings(adjustment=-1.0), "fairness.group_dro.adjustment"),
        (lambda: AdversarySettings(weight=-1.0), "fairness.adversary.weight"),
        (lambda: AdversarySettings(learning_rate=0.0), "fairness.adversary.learning_rate"),
        (lambda: ReleaseSettings(noise_multiplier=0.0), "fairness.releases.noise_multiplier"),
        (lambda: ReleaseSettings(every=0), "fairness.releases.every"),
        (lambda: ReleaseSettings(loss_clip=0.0), "fairness.releases.loss_clip"),
    ],
)
def test_impossible_settings_name_themselves(make, key):
    with pytest.raises(SettingError) as caught:
        make()
    assert str(caught.value).startswith(f"{key}:")


def test_bound_that_clipped_losses_cannot_break_is_refused(recipe):
    fairness = replace(privately(PARITY), constraint=replace(LOSS, loss_bound=2.5))
    with pytest.raises(SettingError, match=r"fairness.releases.loss_clip.*more than.*2.5"):
        open_session(changed(recipe, fairness, CALIBRATED))


def test_group_without_people_of_a_label_is_refused_by_name(recipe, tmp_path):
    path = tmp_path / "people.csv"
    written(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.endswith("yes,w1")]
    path.write_text("\n".join(lines), encoding="utf-8")
    data = replace(recipe.data, table=replace(recipe.data.table, train=str(path)))
    for fairness, key in (
        (ODDS, "fairness.constraint.measure"),
        (DRO, "fairness.group_dro.by_label"),
        (ADVERSARY, "fairness.adversary.parity"),
        (FairnessSettings(attribute="ward", reweighing=True), "fairness.reweighing"),
        (
            FairnessSettings(attribute="ward", balanced_sampling="group_and_label"),
            "fairness.balanced_sampling",
        ),
        (
            FairnessSettings(
                attribute="ward", penalty=PenaltySettings("mmd", parity="equal_opportunity")
            ),
            "fairness.penalty.parity",
        ),
    ):
        with pytest.raises(SettingError, match=rf"{key}.*'w1' of 'ward' has none"):
            open_session(replace(recipe, data=data, fairness=fairness))
    # To refuse it with privacy would tell of the training people.
    open_session(replace(recipe, data=data, fairness=privately(ODDS), privacy=CALIBRATED))
