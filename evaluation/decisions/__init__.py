"""How scores become answers: fitted on validation predictions, measured on any split.

Knows no training: what a private release costs is the caller's business.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "fitting": ["fit_from_counts", "fit_rule", "scores_of"],
        "measure": ["measure_decisions"],
        "summaries": ["write_decisions"],
    },
)
