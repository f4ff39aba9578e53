"""Noisy tables by themselves: their noise, their number, and what a plan pays for them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from configs.schema import (
    PrivacySettings,
    SamplingSettings,
    SettingError,
)
from scripts.ledger import account_of
from training.privacy.group_releases import GroupReleases
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness


def test_release_does_not_show_the_digits_of_the_bare_sum():
    """Noise has 24 binary digits; finer ones of a released sum would be the sum's own."""
    releases = GroupReleases("loss", 20.0, first=0, every=1)
    losses = np.random.default_rng(4).uniform(0.0, 1.0, (30_000, 40))
    whole = losses.sum(axis=0).reshape(10, 4, 1)
    without = losses[1:].sum(axis=0).reshape(10, 4, 1)
    seen = np.concatenate(
        [releases.release(whole, "add_remove", Randomness.from_seed(1), step) for step in range(20)]
    )

    def fits(table: np.ndarray) -> float:
        """Share of the numbers that are this table plus a float32 number."""
        noise = seen - np.tile(table, (20, 1, 1))
        return float(np.mean(noise == noise.astype(np.float32)))

    # Without rounding, 1.0 and 0.04: one number would tell the two data sets apart.
    assert abs(fits(whole) - fits(without)) < 0.05


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
