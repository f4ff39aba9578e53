"""Settings to `keras.Model` giving logits. Knows no data and no training.

`build` is the way in. Everything else works on what it returns: `split_frozen_prefix` for
training, `save_huggingface`, `export_saved_model` and `load_keras` for what happens afterwards.
Importing this package is cheap; TensorFlow and KerasHub are imported by the first call.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "contracts": ["BuiltModel", "Preprocessor"],
        "decision_rule": ["DecisionRule"],
        "embeddings": ["split_at_embeddings"],
        "export": ["export_saved_model"],
        "frozen": ["split_frozen_prefix"],
        "huggingface": ["save_huggingface"],
        "keras_file": ["load_keras", "save_keras"],
        "registry": ["build"],
        "word_alignment": ["align_words"],
    },
)
