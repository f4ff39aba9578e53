"""The one place where data sources are named.

To add a source: write a module with `load(settings: DataSettings) -> Dataset`, name it here, and
add the name to `DataSettings.source`. Nothing of a source is imported before it is asked for.
"""

from __future__ import annotations

import importlib

from configs.schema.data import DataSettings
from data.contracts import Dataset

SOURCES = {
    "census": "data.sources.census",
    "csv": "data.sources.tables",
    "digits": "data.sources.digits",
    "image_folder": "data.sources.image_folder",
    "jsonl": "data.sources.tables",
    "tfds": "data.sources.tfds",
}


def load(settings: DataSettings) -> Dataset:
    """Returns the dataset that the settings name.

    Raises:
        SettingError: A setting names a file, column, feature or split that is not there.
        UserError: A file differs from what it should be, or an example cannot be used while
            `data.on_error` is `raise`.
    """
    return importlib.import_module(SOURCES[settings.source]).load(settings)
