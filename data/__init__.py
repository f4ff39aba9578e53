"""Bytes to `tf.data` of fixed-shape batches. Knows no model.

`load` turns settings into three splits with random access; `prepare` readies a split for one model;
`batches_in_order` and `batches_of` stream it. Importing the package imports no TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "contracts": [
            "Batch",
            "Dataset",
            "DatasetInfo",
            "Examples",
            "Origin",
            "Provenance",
            "Split",
        ],
        "pipeline": ["PreparedSplit", "batches_in_order", "batches_of", "prepare"],
        "registry": ["SOURCES", "load"],
        "counterparts": ["Counterparts"],
        "versions": [
            "Swaps",
            "VersionedSplit",
            "Versions",
            "naming_versions",
            "with_versions",
        ],
    },
)
