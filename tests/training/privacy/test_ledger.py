"""The ledger: durable before use, never under-counting, refusing what it cannot vouch for."""

import json
import resource
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import UserError
from training.files import path_of
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
    assert header["plan"] == json.loads(json.dumps(PLAN.to_dict()))
    for entry in entries:
        assert len(entry.pop("check")) == 16
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
    before = path.read_text()
    assert Ledger(path, PLAN).releases == 4
    assert path.read_text() == before  # reading is for anybody, at any time
    # Counted once, and the file is in order again with the next release.
    assert filled(path, 4).releases == 5
    assert Ledger(path, PLAN).releases == 5
    for line in path.read_text().splitlines():
        json.loads(line)


@given(st.data())
def test_no_change_to_a_byte_makes_it_count_less(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    filled(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        assert Ledger(path, PLAN).releases >= 3
    except UserError as error:
        assert "ledger" in str(error)  # noqa: PT017


@pytest.mark.parametrize("line", [1, 2])
def test_line_taken_out_or_exchanged_is_seen(path, line):
    filled(path)
    lines = path.read_text().splitlines(keepends=True)
    for changed in (
        [*lines[:line], *lines[line + 1 :]],
        [*lines[:line], lines[line + 1], lines[line], *lines[line + 2 :]],
        [*lines[:line], lines[line], *lines[line:]],
    ):
        path.write_text("".join(changed))
        with pytest.raises(UserError, match=r"line \d was changed, or a line before it is missing"):
            Ledger(path, PLAN)


def test_ledger_grown_since_the_checkpoint_is_its_ledger(path):
    mark = filled(path, 2).mark
    filled(path, 5)
    Ledger(path, PLAN).require_past(mark)
    Ledger(path, PLAN).require_past(Ledger(path.with_name("none"), PLAN).mark)


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_ledger_that_lost_its_end_is_older_than_the_checkpoint(path, keep):
    mark = filled(path).mark
    lines = path.read_text().splitlines(keepends=True)
    # Also in the middle of a line.
    for rest in ("", lines[keep + 1][:30]):
        path.write_text("".join(lines[: keep + 1]) + rest)
        with pytest.raises(UserError, match=f"older than the newest checkpoint.* only {keep}\\."):
            Ledger(path, PLAN).require_past(mark)


def test_ledger_of_another_past_is_not_the_checkpoints(path):
    mark = filled(path).mark
    path.unlink()
    filled(path, 5, randomness="b")
    with pytest.raises(UserError, match="not that of the checkpoints: its first 3 releases"):
        Ledger(path, PLAN).require_past(mark)


def test_release_that_cannot_be_written_leaves_the_ledger_whole(path):
    """A full disk: a limit on the size of files, which the kernel enforces in the same way."""
    ledger = filled(path)
    whole = path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(UserError, match=r"ledger\.jsonl: cannot be written"):
            ledger.record(3, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == whole
    assert ledger.releases == 3
    ledger.record(3, "a")
    assert Ledger(path, PLAN).releases == 4


def test_format_of_another_sterling_is_named(path):
    path.write_text('{"ledger": 1, "plan": {}, "fingerprint": "a"}\n')
    for read in (lambda: Ledger(path, PLAN), lambda: Ledger.existing(path)):
        with pytest.raises(UserError, match=r"has format 1, and this Sterling reads format 2"):
            read()


def test_ledger_in_an_object_store_is_the_same(path):
    remote = path_of(f"memory://{path}")
    filled(remote)
    filled(path)
    assert remote.read_text() == path.read_text()
    assert Ledger.existing(remote).releases == 3


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


def test_group_of_releases_is_on_disk_as_its_releases_one_by_one(path, tmp_path):
    filled(path, 4)
    other = tmp_path / "other.jsonl"
    grouped = Ledger(other, PLAN)
    grouped.record(0, "a")
    grouped.record_group(range(4), "a")  # of which one is there
    assert other.read_text() == path.read_text()
    assert grouped.releases == Ledger(other, PLAN).releases == 4
    assert grouped.mark == Ledger(other, PLAN).mark


def test_group_that_cannot_be_written_leaves_the_ledger_as_it_was(path, monkeypatch):
    ledger = filled(path, 2)
    before, mark = path.read_text(), ledger.mark
    monkeypatch.setattr("training.privacy.ledger_file.append_durably", full_disk)
    with pytest.raises(UserError, match="full"):
        ledger.record_group(range(2, 5), "a")
    assert path.read_text() == before
    assert (ledger.releases, ledger.mark) == (2, mark)


def full_disk(path, lines):
    raise UserError("full")


@pytest.mark.parametrize("kept", range(1, 4))
def test_group_that_a_crash_cuts_short_counts_for_what_is_there(path, kept):
    filled(path, 2)
    start = len(path.read_text().splitlines())
    Ledger(path, PLAN).record_group(range(2, 5), "a")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: start + kept - 1]) + lines[start + kept - 1][:9])
    assert Ledger(path, PLAN).releases == 2 + kept


def test_allowed_part_of_a_group_ends_with_the_plan(path):
    ledger = filled(path, 4)
    assert ledger.count_allowed(range(4, 9), "a") == 2
    assert ledger.count_allowed(range(2, 9), "a") == 4  # two of them are paid for
    assert ledger.count_allowed(range(0, 3), "b") == 2
    assert ledger.count_allowed(range(0, 3), "a") == 3


def test_byte_that_is_no_text_is_damage_wherever_the_plan_is_read_from(path):
    filled(path)
    content = bytearray(path.read_bytes())
    content[-20] ^= 0x80
    path.write_bytes(content)
    with pytest.raises(UserError, match="the privacy ledger is damaged"):
        Ledger.existing(path)
