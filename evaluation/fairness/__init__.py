"""How differently groups are treated, as auditors measure it; docs/fairness.md defines every term.

`measure_fairness` takes `Predictions` held in memory; `StreamingFairness` takes them batch by batch
in bounded memory. Both end in the same dictionary, because both come down to the same tables of
counts by group.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "definitions": ["CONFIDENCE", "GAPS", "INTERSECTION", "RATES"],
        "measure": ["measure_fairness", "positive_labels"],
        "soft_groups": ["check_soft_groups", "with_soft_groups"],
        "streaming": ["StreamingFairness"],
    },
)
