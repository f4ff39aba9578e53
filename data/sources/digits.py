"""The embedded images: scikit-learn's 1,797 handwritten digits of 8x8 pixels.

Promises: uint8 images (8, 8, 1) with the source's 17 grey levels spread over 0..255; validation and
test splits cut by `data.split_seed`; no group attributes, because the source names none.

Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, doi 10.24432/C50P49; scikit-learn ships its test part.
"""

from __future__ import annotations

import numpy as np

from configs.schema.data import DataSettings
from configs.schema.errors import require
from data.assembly import Rows, Source, assemble
from data.columns import MemoryColumn
from data.contracts import Dataset, Provenance
from data.faults import Faults

_BRIGHTEST = 16


def load(settings: DataSettings) -> Dataset:
    """Returns the digits."""
    require(
        settings.user is None,
        "data.user",
        settings.user,
        "null: the digits do not say who wrote them",
    )
    import sklearn
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / _BRIGHTEST)).astype(np.uint8)[..., np.newaxis]
    source = Source(
        name="digits",
        modality="image",
        provenance=Provenance(
            source="scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)",
            version=f"scikit-learn {sklearn.__version__}",
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
        ),
        label_names=tuple(str(digit) for digit in range(10)),
    )
    rows = Rows(
        raw=MemoryColumn(images),  # (1797, 8, 8, 1)
        labels=[str(label) for label in digits.target],
        groups={},
        place=lambda position: f"digits, image {position + 1}",
        source="digits",
        records=range(len(images)),
        record_count=len(images),
    )
    return assemble(source, {"train": rows}, settings, Faults(skip=settings.on_error == "skip"))
