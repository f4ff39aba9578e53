from __future__ import annotations

import pytest

from configs.schema import SettingError
from configs.schema.evaluation import CounterfactualSettings
from data.word_lists import WordList, read_word_list

PRONOUNS = WordList(("male", "female"), (("he", "she"), ("him", "her"), ("his", "her")))


def test_words_are_exchanged_whole_and_keep_their_capitals():
    assert PRONOUNS.towards("He told HIM that the hero is his.", 1) == (
        "She told HER that the hero is her."
    )
    assert PRONOUNS.towards("She is here.", 0) == "He is here."


def test_the_first_row_decides_what_an_ambiguous_term_becomes():
    assert PRONOUNS.towards("her coat", 0) == "him coat"


def test_terms_of_the_group_itself_stay():
    assert PRONOUNS.towards("she and her", 1) == "she and her"


def test_everything_is_exchanged_in_one_pass_longest_first():
    cities = WordList(("a", "b", "c"), (("York", "Leeds", "Bath"), ("New York", "York", "Rome")))
    assert cities.towards("New York or Bath", 1) == "York or Leeds"
    assert cities.towards("New York or Leeds", 2) == "Rome or Bath"


def test_terms_are_text_not_patterns():
    odd = WordList(("a", "b"), (("c++", "(java)"),))
    assert odd.towards("we use c++ here", 1) == "we use (java) here"


def test_lists_come_from_files_or_from_the_recipe(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("north,south\nÅsa,María\n\nOle,Juan\n", encoding="utf-8")
    expected = WordList(("north", "south"), (("Åsa", "María"), ("Ole", "Juan")))
    assert read_word_list("k", str(path)) == expected
    assert read_word_list("k", [["north", "south"], ["Åsa", "María"], ["Ole", "Juan"]]) == expected
    assert expected.towards("Dear Åsa,", 1) == "Dear María,"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a CSV file of terms"),
        ("male,female\n", "a header of two groups or more"),
        ("male\nhe\n", "a header of two groups or more"),
        ("male,male\nhe,she\n", r"every name stands once. Received: \['male', 'male'\]"),
        ("male,female\nhe,she\nhim\n", "2 terms in row 3"),
        ("male,female\nhe,\n", "2 terms in row 2"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, content, message):
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError, match=message):
        read_word_list("evaluation.counterfactual.word_lists.x", str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"word_lists": {"a": [["x", "y"], ["z"]]}}, "word_lists.a: expected the path"),
        ({"word_lists": {"a": 3}}, "word_lists.a: expected the path"),
        ({"templates": {"a": ["one {text}"]}}, "templates.a: expected two texts or more"),
        ({"templates": {"a": ["one {text}", "two"]}}, "templates.a: expected two texts or more"),
        ({"examples": 0}, "examples: expected a whole number >= 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        CounterfactualSettings(**settings)
