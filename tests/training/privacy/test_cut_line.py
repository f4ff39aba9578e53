"""A ledger's last line cut off by a crash: counted for what it was, or for all it may have been."""

from dataclasses import replace

import pytest

from training.privacy.group_releases import GroupReleases
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan

PLAN = replace(
    PrivacyPlan.dp_sgd(
        num_examples=1_000,
        batch_size=50,
        steps=8,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        delta=1e-5,
    ),
    # Due before steps 2 and 5.
    group_releases=GroupReleases("loss", 5.0, first=2, every=3),
)
TABLE = [[[1.5, 2.5]]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def written(path, steps: int, tables: tuple[int, ...] = (2, 5), plan: PrivacyPlan = PLAN) -> Ledger:
    """A ledger of the first `steps` steps and of the tables that were due before them."""
    ledger = Ledger(path, plan)
    for step in range(steps):
        if step in tables:
            ledger.record_table(step, TABLE)
        ledger.record(step, "a")
    return ledger


def with_rest(path, rest: str) -> None:
    path.write_text(path.read_text() + rest)


def counted(ledger: Ledger) -> tuple[int, int]:
    return ledger.releases, ledger.tables


@pytest.mark.parametrize(
    ("steps", "rest", "expected"),
    [
        # It says what it was, whatever is due.
        (2, '{"groups": {"ste', (2, 1)),
        (2, '{"release": 2, "rand', (3, 0)),
        (4, '{"groups": ', (4, 2)),
        # It does not say, and the table before step 2, or 5, is the next release of its kind.
        (2, "{", (3, 1)),
        (2, '{"', (3, 1)),
        (2, '{"release":', (3, 1)),
        (5, "{", (6, 2)),
        # Damaged where it would say.
        (2, '{"grXups": {"ste', (3, 1)),
        # It does not say, but every table that could have been next is recorded.
        (0, "{", (1, 0)),
        (1, "{", (2, 0)),
        (3, "{", (4, 1)),
        (4, '{"', (5, 1)),
        (7, "{", (8, 2)),
    ],
)
def test_cut_line_counts_for_what_it_can_have_been(path, steps, rest, expected):
    written(path, steps) if steps else Ledger(path, PLAN).begin()
    with_rest(path, rest)
    assert counted(Ledger.existing(path)) == expected
    # The same when the file is brought in order again by what comes next.
    Ledger(path, PLAN).record(steps, "b")
    again = Ledger.existing(path)
    assert counted(again) == (expected[0] + 1, expected[1])
    assert again.epsilon == PLAN.epsilon(*counted(again))


def test_cut_line_after_all_planned_tables_is_a_step(path):
    plan = replace(PLAN, group_releases=GroupReleases("counts", 5.0, first=0, every=0))
    written(path, 3, (0,), plan)
    with_rest(path, "{")
    assert counted(Ledger(path, plan)) == (4, 1)


@pytest.mark.parametrize("rest", ["{", '{"groups": {"ste'])
def test_cut_line_of_a_plan_without_tables_is_a_step(path, rest):
    plan = replace(PLAN, group_releases=None)
    written(path, 3, (), plan)
    with_rest(path, rest)
    assert counted(Ledger(path, plan)) == (4, 0)


def test_table_cut_off_is_released_again_and_counts_again(path):
    written(path, 2)
    with_rest(path, '{"groups": {"step": 2, "tab')
    ledger = Ledger(path, PLAN)
    assert ledger.table(2) is None
    ledger.record_table(2, TABLE)
    assert counted(ledger) == counted(Ledger(path, PLAN)) == (2, 2)
    # What was planned is spent: the table of step 5 is not released.
    assert not ledger.allows_table()


def test_second_cut_line_may_be_a_table_too(path):
    written(path, 2)
    with_rest(path, '{"groups": {"step": 2, "tab')
    Ledger(path, PLAN).record_table(2, TABLE)
    ledger = Ledger(path, PLAN)
    for step in (2, 3, 4):
        ledger.record(step, "a")
    with_rest(path, "{")
    assert counted(Ledger(path, PLAN)) == (6, 3)


def test_wherever_it_is_cut_no_release_is_lost_and_hardly_one_too_many_is_counted(path):
    written(path, 7)
    whole = path.read_text()
    header, *lines = whole.splitlines(keepends=True)
    for at in range(len(header), len(whole)):
        path.write_text(whole[:at])
        begun, left = [], at - len(header)
        for line in lines:
            if left > 0:
                begun.append((line, min(left, len(line))))
            left -= len(line)
        tables = sum("groups" in line for line, _ in begun)
        steps = len(begun) - tables
        found = counted(Ledger(path, PLAN))
        assert found[0] >= steps
        assert found[1] >= tables
        if not begun or begun[-1][1] >= len('{"release": '):
            assert found == (steps, tables)
