"""Layers that every rule must serve: `CASES`, drawn by hypothesis, one file a family."""

from tests.training.privacy.cases.case import Case
from tests.training.privacy.cases.registry import CASES

__all__ = ["CASES", "Case"]
