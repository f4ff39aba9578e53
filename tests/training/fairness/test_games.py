"""Runs of a game: what it does to a gap, what a checkpoint keeps, what a private run pays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dp_accounting
import keras
import numpy as np
import pytest

from configs.schema import (
    AdversarySettings,
    ConstraintSettings,
    FairnessSettings,
    GroupDroSettings,
    PenaltySettings,
    PrivacySettings,
    Recipe,
    ReleaseSettings,
    SamplingSettings,
    SettingError,
)
from scripts.ledger import account_of
from tests.training.conftest import assert_identical, weights_of
from tests.training.fairness.people import (
    ADVERSARY,
    DRO,
    NOISY_COUNTS,
    ODDS,
    PARITY,
    PRIVATE,
    RELEASES,
    changed,
    privately,
    recipe_over,
    written,
)
from tests.training.test_resume import crash, run_once
from training.privacy.group_releases import GroupReleases
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.session import open_session


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    return recipe_over(tmp_path_factory.mktemp("people") / "people.csv")


def gap_after(recipe: Recipe, root: Path) -> tuple[float, dict[str, float]]:
    """Difference of the wards' shares of positive answers in training, and the last logs."""
    logs: dict[str, float] = {}
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, last: logs.update(last))
    session, run = open_session(recipe), RunDirectory.at(str(root))
    root.mkdir()
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    session.loop(run, [keep], ledger, verbose=0).run()
    answers = session.model.trained(dict(session.train.inputs)).numpy().argmax(-1)
    ward = session.train.groups["ward"]
    return abs(answers[ward == 1].mean() - answers[ward == 0].mean()), logs


def test_constraint_closes_the_gap_and_logs_every_multiplier_and_violation(recipe, tmp_path):
    without, plain_logs = gap_after(changed(recipe, FairnessSettings(), steps=150), tmp_path / "a")
    within, logs = gap_after(changed(recipe, PARITY, steps=150), tmp_path / "b")
    assert without > 0.25
    # Rates of batches are not those of all, and the last model is not the mean of all models.
    assert within < 0.15
    named = {name for name in logs if ":" in name}
    assert named == {
        f"{kind}: {group} {side} everybody, among all"
        for kind in ("multiplier", "violation")
        for group in ("w0", "w1")
        for side in ("above", "below")
    }
    assert not any(":" in name for name in plain_logs)
    pull = [logs[f"multiplier: w1 {side} everybody, among all"] for side in ("above", "below")]
    assert pull[0] > pull[1] + 0.05


@pytest.mark.slow
def test_private_constraint_closes_the_gap_from_noisy_tables_alone(recipe, tmp_path):
    private = replace(PRIVATE, epsilon=20.0)
    fairness = replace(privately(PARITY), constraint=replace(PARITY.constraint, step_size=1.0))
    without, _ = gap_after(changed(recipe, FairnessSettings(), private, steps=150), tmp_path / "a")
    within, logs = gap_after(changed(recipe, fairness, private, steps=150), tmp_path / "b")
    assert without > 0.25
    assert within < 0.6 * without
    assert all(name.startswith("released ") for name in logs if ":" in name)
    assert logs["released multiplier: w1 above everybody, among all"] > 0.1


@pytest.mark.parametrize(
    ("fairness", "privacy"),
    [
        pytest.param(ODDS, None, marks=pytest.mark.slow),
        pytest.param(DRO, None, marks=pytest.mark.slow),
        pytest.param(ADVERSARY, None, marks=pytest.mark.slow),
        (privately(ODDS), PRIVATE),
        pytest.param(NOISY_COUNTS, PRIVATE, marks=pytest.mark.slow),
    ],
    ids=["odds", "dro", "adversary", "private odds", "noisy counts"],
)
def test_resumed_run_ends_with_identical_weights_and_multipliers(
    recipe, tmp_path, fairness, privacy
):
    settings = changed(recipe, fairness, privacy)
    whole, _, ledger = run_once(settings, tmp_path / "whole")
    crash(settings, tmp_path / "cut", 7)
    crash(settings, tmp_path / "cut", 6)
    resumed, _, again = run_once(settings, tmp_path / "cut")
    assert_identical(weights_of(resumed.model), weights_of(whole.model))
    assert_identical(*([np.array(v) for v in loop.step.state] for loop in (resumed, whole)))
    assert any(np.abs(np.array(v)).max() > 0 for v in whole.step.state)
    if ledger is not None:
        assert (again.releases, again.tables, again.epsilon) == (
            ledger.releases,
            ledger.tables,
            ledger.epsilon,
        )


def test_epsilon_of_the_plan_is_that_of_steps_and_tables_together(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), PRIVATE)
    _, _, ledger = run_once(settings, tmp_path)
    plan = ledger.plan
    # In epochs of four steps: no table before the first, one before each of the others.
    assert -(-plan.num_examples // 120) == 4
    assert ledger.tables == 4
    assert [step for step in range(20) if ledger.table(step)] == [4, 8, 12, 16]
    accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-4)
    step = dp_accounting.PoissonSampledDpEvent(
        120 / plan.num_examples, dp_accounting.GaussianDpEvent(plan.noise_multiplier)
    )
    accountant.compose(step, 20)
    of_steps = accountant.get_epsilon(plan.delta)
    accountant.compose(dp_accounting.GaussianDpEvent(4.0), 4)
    expected = accountant.get_epsilon(plan.delta)
    assert ledger.epsilon == pytest.approx(expected, rel=2e-3)
    assert 0.99 * 4.0 < plan.epsilon(20) <= 4.0
    assert of_steps < 0.99 * expected
    text = plan.statement(20, reproducible=False)
    assert "4 noisy tables of all training examples by group and label (selection)" in text
    account = account_of(Ledger.existing(tmp_path / "ledger.jsonl"))
    assert (account["epsilon"], account["group_tables"]) == (ledger.epsilon, 4)


def test_table_is_in_the_ledger_before_it_is_used_and_is_noisy(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), PRIVATE)
    session, run = open_session(settings), RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    player, exact, learned = loop.step.player, [], []
    tables, learn = loop.before_step.__self__, player.learn

    def spy(table) -> None:
        exact.append(tables.exact())
        written = [json.loads(line) for line in run.ledger.read_text().splitlines()]
        last = written[-1]["groups"]
        assert np.array_equal(np.float32(last["table"]), table.numpy())
        learned.append(table.numpy())
        learn(table)

    player.learn = spy
    loop.run()
    noise = np.concatenate([(a - b).ravel() for a, b in zip(learned, exact, strict=True)])
    assert len(noise) == 4 * 8
    # 32 draws of deviation 4: half or double it, with a chance of less than one in a thousand.
    assert 2.0 < noise.std() < 8.0
    assert exact[0].sum() == len(session.train)


def test_unseeded_run_uses_a_recorded_table_again_and_pays_for_it_once(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), PRIVATE, seed=None, checkpoint_every=4)
    crash(settings, tmp_path, 7)  # after the table of step 4, which the checkpoint of 4 lacks
    before = Ledger.existing(tmp_path / "ledger.jsonl")
    kept = before.table(4)
    assert (before.releases, before.tables) == (7, 1)
    _, steps, ledger = run_once(settings, tmp_path)
    assert ledger.table(4) == kept
    assert ledger.tables == 4
    # Steps drew anew and counted again; tables did not.
    assert (steps, ledger.releases) == (17, 20)
    assert ledger.epsilon == ledger.plan.epsilon(20)


def test_cut_line_counts_as_a_step_and_as_a_table(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), PRIVATE)
    crash(settings, tmp_path, 6)
    path = tmp_path / "ledger.jsonl"
    whole = Ledger.existing(path)
    path.write_text(path.read_text() + '{"groups": {"ste')
    cut = Ledger.existing(path)
    assert (cut.releases, cut.tables) == (whole.releases + 1, whole.tables + 1)
    cut.record(6, "other")
    again = Ledger.existing(path)
    assert (again.releases, again.tables) == (whole.releases + 2, whole.tables + 1)


def test_table_is_learned_from_once_however_often_its_step_is_begun(recipe, tmp_path):
    session, run = open_session(changed(recipe, privately(PARITY), PRIVATE)), RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    loop.before_step(3)
    assert ledger.tables == 0
    loop.before_step(4)
    once = [v.numpy() for v in loop.step.state]
    loop.before_step(4)
    assert_identical([v.numpy() for v in loop.step.state], once)
    assert ledger.tables == 1
    assert np.abs(once[1]).sum() > 0


@pytest.mark.parametrize("neighbours", ["add_remove", "zero_out", "replace_one"])
def test_noise_is_the_multiplier_times_the_sensitivity_on_empty_cells_too(neighbours):
    releases = GroupReleases("selection", 5.0, first=3, every=3)
    table = np.zeros((40, 5, 2))
    table[0] = 1000.0
    noise = releases.release(table, neighbours, Randomness.from_seed(1), 3) - table
    expected = 5.0 * (2**0.5 if neighbours == "replace_one" else 1.0)
    assert noise.std() == pytest.approx(expected, rel=0.15)
    other = releases.release(table, neighbours, Randomness.from_seed(1), 6) - table
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.25


def test_one_person_moves_a_table_of_millions_by_no_more_than_the_sensitivity():
    releases = GroupReleases("loss", 5.0, first=0, every=3)
    many = np.full((2, 2, 2), 3e6)
    more = many.copy()
    more[0, 0] += (0.5, 0.5)
    without, within = (
        releases.release(table, "add_remove", Randomness.from_seed(1), 3) for table in (many, more)
    )
    # The same draws: float32 would round to quarters of a person, noise and all.
    assert np.linalg.norm(within - without) == pytest.approx(0.5**0.5, abs=1e-6)
    assert not np.any(without == np.float32(without))


@pytest.mark.slow
@pytest.mark.parametrize("game", ["odds", "adversary", "private odds"])
def test_two_replicas_hold_the_multipliers_of_one_device(game):
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.fairness.replicated_games", game],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["weights"] < 1e-4
    assert found["state"] < 1e-4 * max(1.0, found["largest"])
    assert found["largest"] > 0.1


@pytest.mark.parametrize(("first", "every"), [(0, 0), (0, 4), (3, 3), (5, 1)])
def test_number_of_tables_is_that_of_the_steps_they_are_due_before(first, every):
    releases = GroupReleases("counts", 1.0, first, every)
    for steps in range(15):
        assert releases.within(steps) == sum(releases.due(step) for step in range(steps))


SIZES = {"num_examples": 1000, "batch_size": 50, "steps": 60}


def plan_with(tables: GroupReleases, **privacy) -> PrivacyPlan:
    settings = PrivacySettings(enabled=True, **{"epsilon": 2.0, **privacy})
    return PrivacyPlan.from_settings(settings, **SIZES, group_releases=tables)


def test_ledger_written_with_other_tables_is_another_plan():
    tables = GroupReleases("selection", 20.0, 20, 20)
    plan = plan_with(tables)
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    other = replace(plan, group_releases=replace(tables, noise_multiplier=10.0))
    assert other.fingerprint != plan.fingerprint != replace(plan, group_releases=None).fingerprint


def test_account_of_steps_run_again_counts_no_table_that_was_not_released(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", plan_with(GroupReleases("selection", 20.0, 20, 20)))
    for root in ("a", "b"):
        ledger.record_group(range(30), root)
    ledger.record_table(20, np.zeros((2, 2, 2)).tolist())
    account = account_of(ledger)
    # By their number the releases would have come by a second table.
    assert ledger.plan.tables(60) == 2
    assert account["spans"][-1]["epsilon_after"] == account["epsilon"]


def test_tables_that_cost_more_than_the_whole_budget_are_refused():
    with pytest.raises(SettingError, match=r"fairness.releases.noise_multiplier.*2 tables.*alone"):
        plan_with(GroupReleases("selection", 0.5, 20, 20))


@pytest.mark.parametrize("method", ["shuffled", "balls_in_bins"])
def test_tables_beside_steps_that_depend_on_each_other_are_refused(method):
    with pytest.raises(SettingError, match=r"null with steps that depend on each other"):
        plan_with(GroupReleases("selection", 20.0, 20, 20), sampling=SamplingSettings(method))


def test_run_too_short_for_a_table_is_refused(recipe):
    with pytest.raises(SettingError, match=r"training.steps: expected more than 4"):
        open_session(changed(recipe, privately(PARITY), PRIVATE, steps=4))


def test_steps_are_calibrated_with_the_tables_that_go_with_them(recipe):
    privacy = replace(PRIVATE, calibrate="steps", noise_multiplier=1.5)
    settings = changed(recipe, privately(PARITY), privacy, steps=None, epochs=None)
    plan = open_session(settings).plan
    assert plan.tables(plan.steps) == (plan.steps - 1) // 4 > 0
    assert plan.epsilon(plan.steps) <= 4.0 < plan.epsilon(plan.steps + 4)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("neighbours", ["add_remove", "zero_out", "replace_one"])
def test_every_neighbours_epsilon_has_the_tables_in_it(accountant, neighbours):
    fixed = neighbours == "replace_one"
    plan = plan_with(
        GroupReleases("selection", 8.0, 20, 20),
        accountant=accountant,
        neighbours=neighbours,
        sampling=SamplingSettings("fixed_size" if fixed else "poisson"),
        epsilon=None,
        noise_multiplier=2.0,
    )
    bare = replace(plan, group_releases=None)
    assert plan.tables(60) == 2
    assert plan.epsilon(60) > bare.epsilon(60) + 0.01
    assert plan.epsilon(20) == bare.epsilon(20)


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
        open_session(changed(recipe, fairness, PRIVATE))


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
    ):
        with pytest.raises(SettingError, match=rf"{key}.*'w1' of 'ward' has none"):
            open_session(replace(recipe, data=data, fairness=fairness))
    # To refuse it with privacy would tell of the training people.
    open_session(replace(recipe, data=data, fairness=privately(ODDS), privacy=PRIVATE))
