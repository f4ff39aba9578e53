"""A census record as one terse English line that a language model can read.

Promises: sex, race and every word that gives sex away stay out of the text; the survey weight
(`fnlwgt`) and the numeric copy of education stay out as well; a missing value (`?`) is worded,
never printed; on all 48,842 records of UCI Adult the line is at most `MAX_TOKENS` WordPiece
tokens long.

A sentence encoder reads sizes from words better than from digits, so every number also comes
with a word for its size. The words' bounds are everyday ones (a 40-hour week, the 1-2-5 ladder
for money), not fitted ones, and each record is described by itself. The style of wording was
chosen by cross-validating six of them on training records; like any choice of hyper-parameters
on the data itself, no epsilon covers that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

MAX_TOKENS = 38
"""Most tokens of a description under BERT's uncased vocabulary, [CLS] and [SEP] included."""

MISSING = "?"

EDUCATION = {
    "Preschool": "preschool only",
    "1st-4th": "fourth grade",
    "5th-6th": "sixth grade",
    "7th-8th": "eighth grade",
    "9th": "ninth grade",
    "10th": "tenth grade",
    "11th": "eleventh grade",
    "12th": "twelfth grade",
    "HS-grad": "high school graduate",
    "Some-college": "some college",
    "Assoc-voc": "vocational associate degree",
    "Assoc-acdm": "academic associate degree",
    "Bachelors": "bachelor degree",
    "Masters": "master degree",
    "Prof-school": "professional school degree",
    "Doctorate": "doctorate",
}

MARITAL_STATUS = {
    "Married-civ-spouse": "married",
    "Married-AF-spouse": "married to a soldier",
    "Married-spouse-absent": "married but apart",
    "Never-married": "never married",
    "Divorced": "divorced",
    "Separated": "separated",
    "Widowed": "widowed",
}

# A spouse in the household is what being married says already, so it takes no words.
RELATIONSHIP = {
    "Husband": "",
    "Wife": "",
    "Own-child": "lives with parents",
    "Other-relative": "lives with relatives",
    "Not-in-family": "no family",
    "Unmarried": "family without partner",
}

OCCUPATION = {
    "Exec-managerial": "manager",
    "Prof-specialty": "professional specialist",
    "Tech-support": "technician",
    "Sales": "sales",
    "Adm-clerical": "office clerk",
    "Craft-repair": "craft and repair",
    "Protective-serv": "protective service",
    "Transport-moving": "transport",
    "Machine-op-inspct": "machine operator",
    "Handlers-cleaners": "handler and cleaner",
    "Farming-fishing": "farming and fishing",
    "Other-service": "service worker",
    "Priv-house-serv": "domestic servant",
    "Armed-Forces": "armed forces",
    MISSING: "occupation not stated",
}

WORKCLASS = {
    "Private": "private company",
    "Self-emp-not-inc": "self-employed",
    "Self-emp-inc": "owns incorporated business",
    "Federal-gov": "federal government",
    "State-gov": "state government",
    "Local-gov": "local government",
    "Without-pay": "without pay",
    "Never-worked": "never worked",
    MISSING: "employer not stated",
}

# Names that the source misspells, cuts short or joins.
COUNTRY = {
    "Columbia": "Colombia",
    "Hong": "Hong Kong",
    "Holand-Netherlands": "Netherlands",
    "Outlying-US(Guam-USVI-etc)": "US territory",
    "South": "South Korea",
    "Trinadad&Tobago": "Trinidad",
    MISSING: "country not stated",
}
HOME_COUNTRY = "United-States"

THIRDS_OF_A_DECADE = ("early", "mid", "late")
THIRD_BOUNDS = (4, 7)
DECADES = (
    "",
    "teens",
    "twenties",
    "thirties",
    "forties",
    "fifties",
    "sixties",
    "seventies",
    "eighties",
    "nineties",
)

WORKING_WEEKS = ("short week", "part time", "full time", "overtime", "long overtime")
WORKING_WEEK_BOUNDS = (20, 35, 41, 50)

AMOUNTS = ("tiny", "small", "modest", "large", "very large", "huge")
AMOUNT_BOUNDS = (1_000, 2_000, 5_000, 10_000, 50_000)


def describe(record: Mapping[str, str]) -> str:
    """Returns the description of one record, such as

    `late thirties, bachelor degree, never married, no family, office clerk, state government,
    full time 40 hours, modest capital gain 2174`.

    Args:
        record: Column name of UCI Adult -> stripped value, `?` where missing. `sex`, `race`,
            `fnlwgt` and `education-num` are not read.

    Raises:
        KeyError: A column is missing, or a value is not in the data dictionary.
        ValueError: A number is not a whole one, or an age is outside 10-99.
    """
    parts = [
        _age(record["age"]),
        EDUCATION[record["education"]],
        MARITAL_STATUS[record["marital-status"]],
        RELATIONSHIP[record["relationship"]],
        OCCUPATION[record["occupation"]],
        WORKCLASS[record["workclass"]],
        _working_week(record["hours-per-week"]),
        _money("capital gain", record["capital-gain"]),
        _money("capital loss", record["capital-loss"]),
        _origin(record["native-country"]),
    ]
    return ", ".join(part for part in parts if part)


def _age(years: str) -> str:
    decade, year = divmod(int(years), 10)
    if not 1 <= decade <= 9:
        raise ValueError(f"an age between 10 and 99 was expected. Received: age={years}")
    return f"{THIRDS_OF_A_DECADE[bisect_right(THIRD_BOUNDS, year)]} {DECADES[decade]}"


def _working_week(hours: str) -> str:
    return f"{WORKING_WEEKS[bisect_right(WORKING_WEEK_BOUNDS, int(hours))]} {hours} hours"


def _money(kind: str, dollars: str) -> str:
    if dollars == "0":
        return ""
    return f"{AMOUNTS[bisect_right(AMOUNT_BOUNDS, int(dollars))]} {kind} {dollars}"


def _origin(country: str) -> str:
    if country == HOME_COUNTRY:
        return ""
    name = COUNTRY.get(country, country.replace("-", " "))
    return name if country == MISSING else f"from {name}"
