"""Clipping by groups of variables that the recipe names (McMahan et al. 2018, arXiv:1710.06963).

The groups' bounds C_1 ... C_K satisfy C_1^2 + ... + C_K^2 = C^2, so that all together stay
within C. Groups for which the recipe names no bound share what the others leave, equally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from math import isclose, sqrt
from typing import Any, ClassVar

from configs.schema import ClippingGroup, SettingError
from training.privacy.clip_methods.base import FixedBound, Grouping

_KEY = "privacy.clipping.groups"


@dataclass(frozen=True)
class GroupClipping(FixedBound):
    """Each example's gradient in each group of variables, scaled down to the group's bound.

    Attributes:
        clipping_norm: Bound of all groups together.
        groups: The groups; a variable belongs to the first whose pattern its path matches. Plain
            data, as a ledger has them, will do.

    Raises:
        SettingError: If the bounds do not make up `clipping_norm`.
    """

    method: ClassVar[str] = "groups"
    clipping_norm: float
    groups: tuple[ClippingGroup, ...]

    def __post_init__(self) -> None:
        groups: list[Any] = list(self.groups)
        made = tuple(g if isinstance(g, ClippingGroup) else ClippingGroup(**g) for g in groups)
        object.__setattr__(self, "groups", made)
        self.bounds  # noqa: B018 - refuses impossible ones

    @property
    def bounds(self) -> tuple[float, ...]:
        """Each group's bound, in L2 norm."""
        named = sqrt(sum(group.bound**2 for group in self.groups if group.bound is not None))
        unnamed = sum(group.bound is None for group in self.groups)
        if unnamed and named < self.clipping_norm:
            rest = sqrt((self.clipping_norm**2 - named**2) / unnamed)
            return tuple(rest if group.bound is None else group.bound for group in self.groups)
        if not unnamed and self.groups and isclose(named, self.clipping_norm, rel_tol=1e-4):
            # What people round is rounded down, never up, in the sum that epsilon rests on.
            scale = min(1.0, self.clipping_norm / named)
            return tuple(group.bound * scale for group in self.groups if group.bound is not None)
        raise SettingError(
            _KEY,
            [asdict(group) for group in self.groups],
            "bounds whose root of the sum of squares is privacy.clipping_norm "
            f"({self.clipping_norm:g}; these have {named:.6g}), or a group without one, which "
            "takes the rest",
        )

    def grouping(self, paths: Sequence[str]) -> Grouping:
        patterns = [group.variables for group in self.groups]
        found = []
        for path in paths:
            matching = [i for i, pattern in enumerate(patterns) if fnmatchcase(path, pattern)]
            if not matching:
                raise SettingError(
                    _KEY,
                    patterns,
                    f"every trainable variable in a group, also '{path}'; a last group with "
                    "variables: '*' takes what is left",
                )
            found.append(matching[0])
        for i, pattern in enumerate(patterns):
            if i not in found:
                raise SettingError(
                    _KEY,
                    pattern,
                    "a pattern that is the first to match some trainable variable (their paths: "
                    f"{', '.join(paths[:8])}{' ...' if len(paths) > 8 else ''})",
                )
        return Grouping(tuple(found), tuple(b / self.clipping_norm for b in self.bounds))

    def describe(self, unit: str = "example") -> str:
        parts = (
            f"'{group.variables}' to {bound:.6g}"
            for group, bound in zip(self.groups, self.bounds, strict=True)
        )
        return (
            f"per-{unit} gradients clipped to L2 norms by groups of variables "
            f"({', '.join(parts)}), all together to {self.clipping_norm:g}"
        )
