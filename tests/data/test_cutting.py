import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.cutting import choose, cut


@given(
    rows=st.integers(0, 300),
    validation=st.floats(0, 0.5),
    test=st.floats(0, 0.49),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_cover_every_row_once_and_keep_the_order(rows, validation, test, seed):
    parts = cut(rows, {"validation": validation, "test": test}, seed)
    joined = np.concatenate(list(parts.values()))
    assert sorted(joined) == list(range(rows))
    for part in parts.values():
        assert (np.diff(part) > 0).all()


@given(rows=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_chosen_rows_are_different_rows(rows, seed):
    chosen = choose(rows, rows // 2, seed)
    assert len(set(chosen)) == rows // 2
    assert ((chosen >= 0) & (chosen < rows)).all()


def test_a_cut_is_the_same_on_every_machine():
    # Written down once: a change here silently moves people between training and test.
    assert list(cut(12, {"validation": 0.25}, seed=0)["validation"]) == [4, 6, 11]
