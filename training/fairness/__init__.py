"""Fairness while training: weights, penalties, constraints, group DRO, an adversary.

Weights and costs depend on an example's own group and label and a table, so that a private run may
use them if the table is public, or noisy and paid for. Penalties couple the examples of a batch, an
adversary learns from groups unpaid: both are for plain runs only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adversary": ["Adversary", "AdversaryTask"],
        "balancing": ["Balance", "BalancedSampler"],
        "mitigation": ["Mitigation"],
        "penalties": ["Penalty"],
        "player": ["Game", "Player"],
        "preparation": ["Preparation"],
        "private_tables": ["PrivateTables"],
        "reweighing": ["GroupWeights"],
        "versions": ["AllVersions", "RandomVersions"],
    },
)
