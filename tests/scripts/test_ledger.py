"""`sterling ledger`: what was spent, and by which releases."""

from __future__ import annotations

import json

import pytest

from scripts.cli import main
from scripts.ledger import Span, account_of, spans_of
from tests.training.privacy.test_ledger import PLAN
from training.privacy.ledger import Ledger, Release


def test_spans_break_where_steps_or_randomness_do():
    history = [*(Release(i, "a") for i in range(7)), *(Release(i, "b") for i in range(4, 9))]
    assert spans_of(history) == [Span(0, 7, "a", 0), Span(4, 5, "b", 3)]
    assert spans_of([]) == []


def test_account_adds_up(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", PLAN)
    for step, randomness in [(0, "a"), (1, "a"), (1, "b"), (2, "b")]:
        ledger.record(step, randomness)
    account = account_of(Ledger.existing(tmp_path / "ledger.jsonl"))
    assert (account["releases"], account["repeated_releases"]) == (4, 1)
    assert [span["epsilon_after"] for span in account["spans"]] == [
        PLAN.epsilon(2),
        PLAN.epsilon(4),
    ]
    assert account["epsilon"] == PLAN.epsilon(4)
    assert account["planned_epsilon"] == PLAN.epsilon(6)


@pytest.mark.xdist_group("finished run")
def test_ledger_of_a_finished_run_is_shown(capfd, finished_run):
    report = json.loads((finished_run / "evaluation.json").read_text())["privacy"]
    capfd.readouterr()
    assert main(["ledger", str(finished_run), "--json"]) == 0
    account = json.loads(capfd.readouterr().out)
    assert account["epsilon"] == report["epsilon"]
    assert account["releases"] == report["releases"] == account["planned_releases"]
    assert main(["ledger", str(finished_run)]) == 0
    shown = capfd.readouterr().out
    assert f"1 to {report['releases']}" in shown
    assert f"Spent: epsilon {report['epsilon']:.4g}" in shown


def test_run_without_a_ledger_is_refused(capfd, tmp_path):
    (tmp_path / "config.yaml").write_text("privacy: {enabled: false}\n")
    assert main(["ledger", str(tmp_path)]) == 2
    assert "the run is not private, or lost its ledger" in capfd.readouterr().err
