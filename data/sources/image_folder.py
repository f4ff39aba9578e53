"""Images on disk: a class per sub-folder, or a CSV of path, label and group attributes.

Promises: images stay on disk until a batch needs them; every image that will be used is decoded
once up front, in parallel, so that a corrupt one is named before training and not in its middle.
With `data.cache: none` only the first bytes of each are read up front, which finds what is missing
or no image at all; a damaged image is then named when a batch first meets it, and ends the run.
Hidden files are passed over; every other file below a class folder must be an image. Images and CSV
are hashed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.assets import sha256_of
from configs.schema.data import DataSettings, ImageFolderSettings
from configs.schema.errors import SettingError, require
from data.assembly import SPLITS, Rows, Source, assemble
from data.cells import as_group, as_label, as_text, read_cell
from data.columns import Column
from data.contracts import Dataset, Provenance
from data.faults import Faults
from data.fingerprints import sha256_of_files
from data.images import CheckedImageColumn, ImageFileColumn, of_no_image_format, undecodable
from data.records import Unreadable, existing_file, read_csv, user_column

# What `data.user` is called where folders, not a CSV, say whose image it is.
USER_FOLDER = "folder"


def load(settings: DataSettings) -> Dataset:
    """Returns the images of `data.image_folder`.

    Raises:
        SettingError: A folder, CSV or column is not there.
        UserError: A row or an image cannot be used and `data.on_error` is `raise`.
    """
    folder = settings.image_folder
    faults = Faults(skip=settings.on_error == "skip")
    given = {name: getattr(folder, name) for name in SPLITS}
    places = {
        name: _folder_or_csv(f"data.image_folder.{name}", value)
        for name, value in given.items()
        if name == "train" or value is not None
    }
    require(
        not folder.groups or places["train"].is_file(),
        "data.image_folder.groups",
        folder.groups,
        "none, because data.image_folder.train is a folder, which names no groups; or a CSV file "
        "with those columns",
    )
    checks = settings.cache == "memory"
    column = ImageFileColumn if checks else CheckedImageColumn
    rows = {
        name: _rows_of_folder(name, path, settings.user, faults, column)
        if path.is_dir()
        else _rows_of_csv(name, path, folder, settings.user, faults, column)
        for name, path in places.items()
    }
    attributes = {name: set(part.groups) for name, part in rows.items()}
    for name, found in attributes.items():
        if found != attributes["train"]:
            raise SettingError(
                f"data.image_folder.{name}",
                given[name],
                "a folder or a CSV file as data.image_folder.train is, with the same groups",
            )
    digests = {name: _digests(path, rows[name].raw) for name, path in places.items()}
    source = Source(
        name=places["train"].stem,
        modality="image",
        provenance=Provenance(
            source=", ".join(str(path) for path in places.values()),
            sha256={
                f"{places[name]}{part}": digest
                for name, of_split in digests.items()
                for part, digest in of_split.items()
            },
            content={
                f"{name}{part}": digest
                for name, of_split in digests.items()
                for part, digest in of_split.items()
            },
        ),
        problems=undecodable if checks else of_no_image_format,
    )
    return assemble(source, rows, settings, faults)


def _digests(place: Path, images: Column) -> dict[str, str]:
    """What a split is known again by: "" -> the CSV that names its images, if one does, and
    " (images)" -> their places within the folder, and their bytes."""
    assert isinstance(images, ImageFileColumn)
    of_csv = {"": sha256_of(place)} if place.is_file() else {}
    root = place.parent if place.is_file() else place
    files = {os.path.relpath(path, root): path for path in images.paths}
    return {**of_csv, " (images)": sha256_of_files(files.items())}


def _folder_or_csv(key: str, value: str | None) -> Path:
    path = Path(value or "").expanduser()
    if value and path.is_dir():
        return path
    try:
        return existing_file(key, value)
    except SettingError:
        raise SettingError(
            key, value, "an existing folder with a sub-folder per class, or a CSV file"
        ) from None


def _rows_of_folder(
    split: str, folder: Path, user: str | None, faults: Faults, column: type[ImageFileColumn]
) -> Rows:
    key = f"data.image_folder.{split}"
    require(
        user in (None, USER_FOLDER),
        "data.user",
        user,
        f"{USER_FOLDER} (the sub-folder within a class's names the user), because {key} is a "
        "folder; or a CSV file with that column",
    )
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path))
    paths: list[str] = []
    labels: list[str] = []
    users: list[str] = []
    records: list[int] = []
    found = 0
    for place in classes:
        for path in _files_below(place):
            found += 1
            if user and path.parent == place:
                faults.add(split, str(path), "lies in no user's sub-folder of its class")
                continue
            paths.append(str(path))
            labels.append(place.name)
            records.append(found - 1)
            if user:
                users.append(path.relative_to(place).parts[0])
    if not found:
        raise SettingError(key, str(folder), "a folder with a sub-folder of images per class")
    return Rows(
        raw=column(tuple(paths)),
        labels=labels,
        groups={},
        place=lambda position: paths[position],
        source=str(folder),
        records=records,
        record_count=found,
        users=users if user else None,
    )


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(_hidden, [path, *path.relative_to(folder).parents]))
    )


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _rows_of_csv(
    split: str,
    path: Path,
    folder: ImageFolderSettings,
    user: str | None,
    faults: Faults,
    column: type[ImageFileColumn],
) -> Rows:
    file = read_csv(path)
    user = user_column(split, file, user)
    file.require_columns(
        [
            ("data.image_folder.path", folder.path),
            ("data.image_folder.label", folder.label),
            *(("data.image_folder.groups", name) for name in folder.groups),
        ]
    )
    images: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    records: list[int] = []
    users: list[str] = []
    groups: dict[str, list[str | None]] = {name: [] for name in folder.groups}
    count = 0
    for row in file.stream():
        count += 1
        try:
            image, label, values, owner = _read(row.record, folder, user)
        except ValueError as problem:
            faults.add(split, f"{path}, row {row.line}", str(problem))
            continue
        images.append(str(path.parent / image))
        labels.append(sys.intern(label))
        lines.append(row.line)
        records.append(count - 1)
        users.append(owner)
        for name, value in values.items():
            groups[name].append(None if value is None else sys.intern(value))
    return Rows(
        raw=column(tuple(images)),
        labels=labels,
        groups=groups,
        place=lambda position: f"{path}, row {lines[position]}: {images[position]}",
        source=str(path),
        records=records,
        record_count=count,
        users=users if user else None,
    )


def _read(
    record: Mapping[str, Any] | Unreadable, folder: ImageFolderSettings, user: str | None
) -> tuple[str, str, dict[str, str | None], str]:
    """Returns path, label, group values and user ("" for none) of a row, or raises `ValueError`."""
    if isinstance(record, Unreadable):
        raise ValueError(record.problem)
    return (
        read_cell(as_text, record, folder.path).decode(),
        read_cell(as_label, record, folder.label),
        {name: read_cell(as_group, record, name) for name in folder.groups},
        read_cell(as_label, record, user) if user else "",
    )
