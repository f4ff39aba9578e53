"""The private engine: sampling, clipping, noise and accounting as one object.

For a model and a loop of your own: `make_private` gives a Keras model whose `compile` and `fit`
train privately; `PrivacyPlan`, `private_dataset`, `clipped_gradient_sum` and `Ledger` are the
pieces of a loop written by hand. Importing the package imports no TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "clipping": ["clipped_gradient_sum"],
        "inspection": ["probe", "problems_of"],
        "keras_api.datasets": ["private_dataset"],
        "keras_api.losses": ["per_example_loss"],
        "keras_api.model": ["PrivateModel"],
        "keras_api.making": ["make_private"],
        "keras_api.spent": ["PrivacySpent"],
        "keras_api.streams": ["stored_examples"],
        "ledger": ["Ledger"],
        "plan": ["PrivacyPlan"],
    },
)
