"""Fairness while training: weights of examples, and penalties that compare groups of a batch.

Weights depend on an example's own group and label and a fixed table, so that a private run may use
them if the table is public. Penalties couple the examples of a batch and are for plain runs only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "balancing": ["Balance", "BalancedSampler"],
        "mitigation": ["Mitigation"],
        "penalties": ["Penalty"],
        "reweighing": ["GroupWeights"],
        "versions": ["AllVersions", "RandomVersions"],
    },
)
