"""Balanced sampling: from a recipe to batches that hold every group alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import (
    DataSettings,
    FairnessSettings,
    MlpSettings,
    ModelSettings,
    PrivacySettings,
    Recipe,
    SettingError,
    TableSettings,
    TrainingSettings,
)
from training.fairness import Balance, BalancedSampler
from training.privacy.ledger import Ledger
from training.privacy.sampling import BalancedPoissonSampling
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.session import open_session

ROOT = Randomness.from_seed(3)
COUNTS = {"east": {"no": 60.0, "yes": 20.0}, "west": {"no": 15.0, "yes": 5.0}}
CELLS = np.random.default_rng(0).permutation(np.repeat([0, 2, 3], [70, 20, 10]))


def test_plain_batches_hold_every_cell_alike_to_within_one():
    sampler = BalancedSampler(CELLS, 31, ROOT)
    for step in range(40):
        drawn = CELLS[sampler.draw(step)]
        assert len(drawn) == 31
        assert sorted(np.bincount(drawn, minlength=4)[[0, 2, 3]]) == [10, 10, 11]
    assert np.array_equal(sampler.draw(9), BalancedSampler(CELLS, 31, ROOT).draw(9))


def test_everybody_of_a_cell_comes_before_anybody_comes_again():
    sampler = BalancedSampler(CELLS, 30, ROOT)
    drawn = np.concatenate([sampler.draw(step) for step in range(14)])
    times = np.bincount(drawn, minlength=100)
    assert times[CELLS == 0].tolist() == [2] * 70  # 140 places for 70 people
    assert times[CELLS == 2].tolist() == [7] * 20
    assert times[CELLS == 3].tolist() == [14] * 10


def test_batches_come_in_random_order():
    sampler = BalancedSampler(CELLS, 30, ROOT)
    firsts = [CELLS[sampler.draw(step)[::2]] for step in range(60)]
    # One of two replicas gets every second row, of which a third is each cell's.
    counts = np.bincount(np.concatenate(firsts), minlength=4)[[0, 2, 3]]
    assert np.abs(counts - 300).max() < 5 * np.sqrt(900 * 2 / 9)
    assert len({tuple(first) for first in firsts}) > 50


def test_shares_are_those_of_the_public_counts():
    names = (("east", "west"), ("no", "yes"))
    groups = Balance.of("group", "ward", COUNTS, *names)
    assert groups.shares == pytest.approx((0.8, 0.2))
    cells = Balance.of("group_and_label", "ward", COUNTS, *names)
    assert cells.shares == pytest.approx((0.6, 0.2, 0.15, 0.05))
    members = {"ward": np.array([0, 1, 1], np.int32)}
    labels = np.array([1, 0, 1], np.int32)
    assert groups.cells_of(members, labels).tolist() == [0, 1, 1]
    assert cells.cells_of(members, labels).tolist() == [1, 2, 3]
    with pytest.raises(SettingError, match=r"fairness\.public_counts\.north\.no"):
        Balance.of("group", "ward", COUNTS, ("east", "north"), ("no", "yes"))


PRIVATE = PrivacySettings(enabled=True, noise_multiplier=1.0)


def test_private_balancing_by_training_counts_is_refused():
    fairness = FairnessSettings(attribute="ward", balanced_sampling="group")
    Recipe(fairness=fairness)  # without privacy it is fine
    with pytest.raises(SettingError, match=r"fairness\.balanced_sampling: .*public_counts"):
        Recipe(privacy=PRIVATE, fairness=fairness)
    Recipe(privacy=PRIVATE, fairness=replace(fairness, public_counts=COUNTS))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"balanced_sampling": "group"}, "fairness.attribute"),
        (
            {"attribute": "ward", "balanced_sampling": "group", "reweighing": True},
            "fairness.balanced_sampling",
        ),
    ],
)
def test_impossible_settings_name_themselves(values, key):
    with pytest.raises(SettingError) as caught:
        FairnessSettings(**values)
    assert str(caught.value).startswith(key)


@pytest.fixture(scope="module")
def recipe(in_own_folder: Path) -> Recipe:
    rng = np.random.default_rng(0)
    rows = ["x,z,outcome,ward"]
    for _ in range(300):
        ward, outcome = rng.random() < 0.2, rng.random() < 0.25
        x = rng.normal(outcome - 0.5)
        rows.append(f"{x:.4f},{rng.normal():.4f},{('no', 'yes')[outcome]},{('east', 'west')[ward]}")
    path = Path("people.csv")
    path.write_text("\n".join(rows), encoding="utf-8")
    table = TableSettings(train=str(path), label="outcome", features=["x", "z"], groups=["ward"])
    return Recipe(
        data=DataSettings(source="csv", table=table, validation_fraction=0.1),
        model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[4])),
        training=TrainingSettings(steps=6, batch_size=24, physical_batch_size=16, seed=1),
    )


@pytest.mark.parametrize("what", ["group", "group_and_label"])
def test_session_trains_on_balanced_batches(recipe, tmp_path, what):
    fairness = FairnessSettings(attribute="ward", balanced_sampling=what)
    session = open_session(replace(recipe, fairness=fairness))
    loop = session.loop(RunDirectory.at(str(tmp_path)), [], None, verbose=0)
    drawn = loop.batching.sampler.draw(0)
    assert np.bincount(session.train.groups["ward"][drawn]).tolist() == [12, 12]
    if what == "group_and_label":
        assert np.bincount(session.train.labels[drawn]).tolist() == [12, 12]
    assert loop.run() == 6


def test_private_session_draws_by_its_plan_and_its_ledger_pays_the_largest_rate(recipe, tmp_path):
    fairness = FairnessSettings(attribute="ward", balanced_sampling="group", public_counts=COUNTS)
    session = open_session(replace(recipe, privacy=PRIVATE, fairness=fairness))
    plan = session.plan
    assert isinstance(plan.sampling, BalancedPoissonSampling)
    assert plan.sampling.rates == pytest.approx((12 / (240 * 0.8), 12 / (240 * 0.2)))
    assert len(session.train) == 240
    run = RunDirectory.at(str(tmp_path))
    ledger = Ledger(run.ledger, plan)
    loop = session.loop(run, [], ledger, verbose=0)
    ward = session.train.groups["ward"]
    counts = np.array(
        [np.bincount(ward[loop.batching.sampler.draw(t)], minlength=2) for t in range(200)]
    )
    expected = np.bincount(ward) * np.array(plan.sampling.rates)
    assert np.abs(counts.mean(axis=0) - expected).max() < 5 * np.sqrt(12 / 200)
    assert loop.run() == 6
    assert ledger.epsilon == plan.epsilon(6)
    assert Ledger.existing(run.ledger).plan == plan
