"""The cost model: which form is taken, and that memory is kept within its limit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from training.privacy.cost_model import Form, MatrixWork, choose_forms, fastest

SIZES = st.integers(1, 300)
WORKS = st.builds(MatrixWork, SIZES, SIZES, SIZES, SIZES)


def test_short_and_wide_takes_gram_matrices():
    assert fastest(MatrixWork(32, 16, 1024, 1024)) is Form.GHOST


def test_long_and_narrow_instantiates():
    assert fastest(MatrixWork(32, 1024, 64, 64)) is Form.INSTANTIATE


def test_one_position_needs_neither_grams_nor_gradients():
    assert fastest(MatrixWork(32, 1, 64, 64)) is Form.GHOST


def test_plain_flops_are_those_of_the_weight_gradient():
    assert MatrixWork(2, 3, 4, 5).plain_flops == 2 * 2 * 3 * 4 * 5


def test_a_window_makes_the_gram_matrix_no_dearer_than_its_pixels():
    flops = MatrixWork(1, 64, 9 * 128, 128, places=9, pixels=64).flops(Form.GHOST)
    assert flops == 2 * 64 * 9 * 128 * 128 + 2 * 64 * 64 * (128 + 128)


@settings(max_examples=50, deadline=None)
@given(works=st.lists(WORKS, max_size=8), limit=st.floats(0, 1e8))
def test_what_is_kept_fits_the_limit(works, limit):
    forms = choose_forms(works, limit)
    kept = sum(work.kept_bytes(form) for work, form in zip(works, forms, strict=True))
    assert kept <= limit


@settings(max_examples=50, deadline=None)
@given(works=st.lists(WORKS, max_size=8))
def test_without_a_limit_each_takes_its_fastest_form(works):
    assert choose_forms(works, float("inf")) == [fastest(work) for work in works]


@settings(max_examples=50, deadline=None)
@given(works=st.lists(WORKS, max_size=8), limit=st.floats(0, 1e8), more=st.floats(0, 1e8))
def test_more_memory_never_takes_more_time(works, limit, more):
    def time(memory: float) -> float:
        forms = choose_forms(works, memory)
        return sum(work.cost(form) for work, form in zip(works, forms, strict=True))

    assert time(limit + more) <= time(limit) * (1 + 1e-9)
