"""The ledger: durable before use, never under-counting, refusing what it cannot vouch for."""

import json
from dataclasses import replace

import pytest

from configs.schema import UserError
from training.privacy.clip_methods import FlatClipping
from training.privacy.ledger import Ledger
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling

PLAN = PrivacyPlan.dp_sgd(
    num_examples=1_000, batch_size=50, steps=6, clipping_norm=1.0, noise_multiplier=1.0, delta=1e-5
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def filled(path, releases: int = 3, randomness: str = "a") -> Ledger:
    ledger = Ledger(path, PLAN)
    for step in range(releases):
        ledger.record(step, randomness)
    return ledger


def test_opening_a_ledger_writes_nothing(path):
    assert Ledger(path, PLAN).releases == 0
    assert not path.exists()


def test_release_is_on_disk_when_record_returns(path):
    filled(path, 2)
    header, *entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["plan"] == PLAN.to_dict()
    assert entries == [{"release": step, "randomness": "a"} for step in range(2)]


def test_reopened_ledger_remembers(path):
    filled(path)
    again = Ledger(path, PLAN)
    assert again.releases == 3
    assert again.epsilon == PLAN.epsilon(3)
    assert Ledger.existing(path).plan == PLAN


def test_seeded_step_run_again_is_the_same_release(path):
    filled(path)
    assert filled(path).releases == 3


def test_unseeded_step_run_again_counts_again(path):
    filled(path)
    again = filled(path, randomness="b")
    assert again.releases == 6
    assert Ledger(path, PLAN).releases == 6


def test_nothing_beyond_the_planned_releases_is_allowed(path):
    ledger = filled(path, PLAN.steps)
    assert not ledger.allows(PLAN.steps, "a")
    assert not ledger.allows(0, "b")
    assert ledger.allows(0, "a")  # already paid for


def test_line_cut_off_by_a_crash_is_counted(path):
    filled(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"release": 3, "rand')
    assert Ledger(path, PLAN).releases == 4
    # Counted once, and the file is in order again.
    assert Ledger(path, PLAN).releases == 4
    assert filled(path, 4).releases == 5
    for line in path.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"release": 1', '"releas": 1'),
        lambda text: text.replace("{", "", 2),
        lambda text: "\n".join(text.split("\n")[1:]),
        lambda text: "",
        lambda text: text.replace('"release": 2', "7, 8"),
    ],
    ids=["a key", "a brace", "no header", "empty", "a line"],
)
def test_damaged_ledger_is_refused_in_one_line(path, damage):
    filled(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=r"ledger\.jsonl: the privacy ledger is damaged") as error:
        Ledger(path, PLAN)
    assert "what was spent is unknown" in str(error.value)


@pytest.mark.parametrize("damage", ["", "nonsense\n", '{"plan": {"steps": 3}}\n'])
def test_plan_cannot_be_read_off_a_damaged_ledger(path, damage):
    path.write_text(damage)
    with pytest.raises(UserError, match="the privacy ledger is damaged"):
        Ledger.existing(path)


@pytest.mark.parametrize(
    "change",
    [
        {"mechanism": GaussianMechanism(2.0)},
        {"clipping": FlatClipping(0.5)},
        {"sampling": PoissonSampling(1_000, 60)},
        {"delta": 1e-6},
    ],
)
def test_other_plan_is_refused(path, change):
    filled(path)
    with pytest.raises(UserError, match="written under another privacy plan"):
        Ledger(path, replace(PLAN, **change))


def test_longer_run_goes_on_under_the_same_plan(path):
    filled(path)
    longer = Ledger(path, replace(PLAN, steps=9))
    assert longer.releases == 3
    assert longer.allows(3, "a")
