import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.vocabulary import ids_of_groups, ids_of_labels, names_of_groups, names_of_labels


def test_whole_numbers_are_ordered_by_size():
    assert names_of_labels(["10", "9", "-1", "9"]) == ("-1", "9", "10")


def test_other_names_are_ordered_alphabetically():
    assert names_of_labels(["b", "10", "a", "9"]) == ("10", "9", "a", "b")


@given(st.lists(st.text()), st.randoms())
def test_the_order_of_rows_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert names_of_labels(values) == names_of_labels(shuffled)


@given(st.lists(st.one_of(st.none(), st.text()), min_size=1))
def test_every_group_value_can_be_read_back(values):
    names = names_of_groups(values)
    back = [names[index] for index in ids_of_groups(values, names)]
    assert back == ["unknown" if value is None else value for value in values]


def test_a_missing_group_value_is_unknown_and_last():
    assert names_of_groups(["z", None, "a"]) == ("a", "z", "unknown")
    assert names_of_groups(["z", "a"]) == ("a", "z")


def test_names_that_a_source_fixes_come_first_even_if_unused():
    assert names_of_groups(["b", None, "x"], first=("b", "a")) == ("b", "a", "x", "unknown")


def test_an_unknown_label_is_minus_one():
    assert list(ids_of_labels(["a", "c"], ["a", "b"])) == [0, -1]


def test_an_unknown_group_value_is_refused():
    with pytest.raises(KeyError):
        ids_of_groups(["c"], ["a", "b"])
