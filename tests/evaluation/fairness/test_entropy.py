from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.fairness.entropy import inequality
from evaluation.fairness.rates import CellLayout


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=40
    )
)
def test_indices_are_their_definitions_and_split_into_between_and_within(rows):
    labels, answers, groups = np.array(rows).T
    layout = CellLayout(np.array([1]), 2)
    table = np.zeros((3, layout.size))
    np.add.at(table, (groups, layout.cells(labels, answers)), 1)
    found = inequality(layout.counts(table, np.arange(layout.size)))
    benefits = answers - labels + 1.0
    if benefits.sum() == 0:
        assert np.isnan(found["theil"]["all"]).all()
        return
    r = benefits / benefits.mean()
    expected = {
        "generalized_entropy": ((r**2 - 1) / 2).mean(),
        "theil": (r * np.log(np.where(r > 0, r, 1))).mean(),
    }
    # Between: as if everybody in a group had the group's mean benefit.
    means = np.array([benefits[groups == group].mean() for group in groups]) / benefits.mean()
    between = {
        "generalized_entropy": ((means**2 - 1) / 2).mean(),
        "theil": (means * np.log(np.where(means > 0, means, 1))).mean(),
    }
    for name, value in expected.items():
        assert found[name]["all"][0] == pytest.approx(value, abs=1e-9)
        assert found[name]["between"][0] == pytest.approx(between[name], abs=1e-9)
        assert found[name]["within"][0] >= -1e-9
