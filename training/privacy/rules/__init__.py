"""Rules: from a tapped layer call to the per-example gradients of the layer's variables.

One file a layer family. The registry below is the one place to add to; a layer it does not name
takes the exact fallback (`fallback.py`), so every layer is right and the common ones are fast.
A layer matches a rule by its exact class, never by inheritance: a subclass may compute something
else. Every rule must pass `tests/training/privacy/test_conformance.py`.
"""

from training.privacy.rules.base import Gradients, InsideRule, Rule, owned_variables
from training.privacy.rules.registry import RULES, rule_for

__all__ = ["RULES", "Gradients", "InsideRule", "Rule", "owned_variables", "rule_for"]
