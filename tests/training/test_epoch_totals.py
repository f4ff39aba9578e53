"""What an epoch's sums become in the logs, with privacy and without."""

from __future__ import annotations

import math

import pytest

from training.epoch_totals import EpochTotals
from training.steps import StepTotals

BROKEN = StepTotals(loss=math.inf, correct=1.0, examples=4.0, non_finite=1.0)


def test_means_are_over_the_examples_that_took_part() -> None:
    totals = EpochTotals(private=True)
    totals.add(StepTotals(loss=6.0, correct=2.0, examples=4.0, non_finite=1.0))
    totals.add(StepTotals(loss=3.0, correct=1.0, examples=4.0, non_finite=1.0, leakage=1.5))
    assert totals.logs() == {
        "loss": 9.0 / 6.0,
        "accuracy": 3.0 / 6.0,
        "leakage": 1.5 / 6.0,
        "non_finite_examples": 2.0,
    }


def test_a_sum_that_is_not_finite_counts_only_without_privacy() -> None:
    private, plain = EpochTotals(private=True), EpochTotals(private=False)
    for totals in (private, plain):
        totals.add(BROKEN)
    assert private.loss_is_finite
    assert private.logs()["loss"] == 0.0
    assert not plain.loss_is_finite


@pytest.mark.parametrize(("non_finite", "expected"), [(4.0, True), (3.0, False)])
def test_epoch_of_noise_alone_is_seen(non_finite, expected) -> None:
    totals = EpochTotals(private=True)
    assert not totals.none_was_finite
    totals.add(StepTotals(loss=0.0, correct=0.0, examples=4.0, non_finite=non_finite))
    assert totals.none_was_finite is expected


def test_epoch_that_is_gone_on_with_keeps_its_sums_and_a_copy_does_not_grow() -> None:
    totals = EpochTotals({"loss": 1.0, "examples": 2.0}, private=False)
    before = totals.copy()
    totals.add(StepTotals(loss=5.0, correct=0.0, examples=2.0, non_finite=0.0))
    assert totals.logs()["loss"] == 6.0 / 4.0
    assert before.sums["loss"] == 1.0
