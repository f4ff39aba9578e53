"""The inner step, a kind a file: plain, against an adversary, private; and several in one call.

A logical batch may be many physical ones. Each adds its gradient sum (`add`); the last also
releases the total and applies it (`finish`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adversarial": ["AdversarialStep"],
        "base": ["TrainingStep"],
        "plain": ["PlainStep"],
        "private": ["PrivateStep"],
        "totals": ["StepTotals"],
    },
)
