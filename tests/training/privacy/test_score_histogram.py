"""The release of validation examples: its sensitivity, its noise and its price."""

import dp_accounting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import SettingError, UserError
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan
from training.privacy.score_histogram import SENSITIVITY, HistogramRelease, score_histogram
from training.randomness import Randomness

GROUPS, BINS = 3, 8
ANY_SCORE = st.one_of(st.floats(0, 1), st.floats(allow_nan=True, allow_infinity=True))
PERSON = st.tuples(ANY_SCORE, st.booleans(), st.integers(0, GROUPS - 1))


def counted(people: list) -> np.ndarray:
    scores, positive, groups = (np.array([p[i] for p in people]) for i in range(3))
    return score_histogram(
        scores.astype(float), positive.astype(bool), groups.astype(int), GROUPS, BINS
    )


@given(st.lists(PERSON, max_size=12), PERSON, PERSON)
def test_neighbours_differ_by_no_more_than_the_sensitivity(others, person, another):
    without, with_one = counted(others), counted([*others, person])
    replaced = counted([*others, another])
    assert np.linalg.norm(with_one - without) == SENSITIVITY["add_remove"]
    assert np.linalg.norm(with_one - without) == SENSITIVITY["zero_out"]
    assert np.linalg.norm(with_one - replaced) <= SENSITIVITY["replace_one"]
    assert with_one.sum() == len(others) + 1


def test_replacing_reaches_its_sensitivity():
    difference = counted([(0.1, True, 0)]) - counted([(0.9, True, 0)])
    assert np.linalg.norm(difference) == SENSITIVITY["replace_one"]


@pytest.mark.parametrize("neighbours", SENSITIVITY)
def test_noise_has_the_deviation_that_was_paid_for_on_empty_cells_too(neighbours):
    release = HistogramRelease(1.0, 1e-4, neighbours, 500)
    histogram = np.zeros((2, 2, 500))
    histogram[0, 0] = 1000
    noise = release.release(histogram, Randomness.from_seed(3)) - histogram
    expected = release.noise_multiplier * SENSITIVITY[neighbours]
    for part in (noise[0, 0], noise[0, 1], noise[1]):
        assert part.std() == pytest.approx(expected, rel=0.12)
        assert abs(part.mean()) < 5 * expected / np.sqrt(part.size)
    assert len(np.unique(noise)) > 0.99 * noise.size


def test_price_is_that_of_the_gaussian_mechanism():
    release = HistogramRelease.from_settings(2.0, None, "add_remove", 16, 3000)
    assert release.delta == pytest.approx(3000**-1.1)
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(release.noise_multiplier))
    assert accountant.get_epsilon(release.delta) <= 2.0
    assert release.spent(1) == pytest.approx(2.0, rel=0.01)
    assert release.spent(0) == 0
    assert release.spent(2) > 1.3 * release.spent(1)


def test_delta_that_allows_publishing_a_record_is_refused():
    with pytest.raises(SettingError, match=r"decision\.delta: expected less than 1/N = 0\.01"):
        HistogramRelease.from_settings(1.0, 0.01, "add_remove", 16, 100)


def test_seeded_releases_of_other_settings_share_no_noise():
    zeros, root = np.zeros((2, 2, 16)), Randomness.from_seed(5)
    one = HistogramRelease(1.0, 1e-4, "add_remove", 16)
    two = HistogramRelease(2.0, 1e-4, "add_remove", 16)
    first, second = one.release(zeros, root).ravel(), two.release(zeros, root).ravel()
    np.testing.assert_array_equal(first, one.release(zeros, root).ravel())
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.4


PLAN = PrivacyPlan.dp_sgd(
    num_examples=1_000, batch_size=50, steps=3, clipping_norm=1.0, noise_multiplier=1.0, delta=1e-5
)


def test_ledger_keeps_releases_of_validation_apart_from_those_of_training(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, PLAN)
    for step in range(3):
        ledger.record(step, "a")
    spent, mark = ledger.epsilon, ledger.mark
    release = HistogramRelease(1.0, 1e-4, "add_remove", 16).to_dict()
    ledger.record_validation(release)
    ledger.record_validation(release)
    again = Ledger(path, PLAN)
    assert again.validation == (release, release)
    assert again.epsilon == spent
    assert again.releases == 3
    again.require_past(mark)
    path.write_text(path.read_text().replace('"epsilon": 1.0', '"epsilon": 0.1'))
    with pytest.raises(UserError, match="was changed"):
        Ledger(path, PLAN)
