"""Would the answer have been another, had the person been another?

Examples are changed in what should not matter (names, pronouns, identity terms, a paired image),
the model is asked again, and what is reported is how often and how far its answer moves.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "measure": ["Perturbation", "measure_perturbation"],
        "suite": ["check_counterfactuals", "measure_counterfactuals"],
    },
)
