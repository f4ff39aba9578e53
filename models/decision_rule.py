"""How a two-label model's score becomes an answer: plain numbers, applied in numpy and in a graph.

A rule holds one step function for each group: the probability of the positive answer as a function
of the score. fairlearn's `ThresholdOptimizer` randomises between two thresholds, and such a
mixture is a step function too. Every draw is a hash of the example itself: the same example gets
the same answer, in every process and whenever it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

ABSTAINS = "abstain"
ABSTAINS_INDEX = -1


@dataclass(frozen=True)
class Steps:
    """A step function of the score.

    Attributes:
        edges: Scores at which it changes, ascending.
        selection: Probability of the positive answer below the first edge (edge included),
            between each two, and above the last: one more than edges.

    Raises:
        ValueError: If they do not fit one another.
    """

    edges: tuple[float, ...]
    selection: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        shares = all(0 <= share <= 1 for share in self.selection)
        if len(self.selection) != len(self.edges) + 1 or not ascending or not shares:
            raise ValueError(
                "expected ascending edges and one probability more than edges. Received: "
                f"{self.edges}, {self.selection}"
            )

    @classmethod
    def mixture(cls, parts: Sequence[tuple[float, float]], always: float = 0.0) -> Steps:
        """The step function that answers positive above each threshold with its weight.

        Args:
            parts: Thresholds (infinite ones too) and their weights; all weights and `always` add
                up to 1 at most.
            always: Probability of a positive answer whatever the score.
        """
        weights: dict[float, float] = {}
        for threshold, weight in parts:
            if threshold == -np.inf:
                always += weight
            elif threshold != np.inf and weight > 0:
                weights[float(threshold)] = weights.get(float(threshold), 0.0) + weight
        edges = sorted(weights)
        levels = always + np.cumsum([0.0, *(weights[edge] for edge in edges)])
        return cls(tuple(edges), tuple(np.clip(levels, 0.0, 1.0).tolist()))

    def at(self, scores: np.ndarray) -> np.ndarray:
        """The probability of the positive answer at each score, float64 of the scores' shape."""
        return np.asarray(self.selection)[np.searchsorted(self.edges, scores, side="left")]

    def near(self, scores: np.ndarray, width: float) -> np.ndarray:
        """Whether each score is less than `width` from an edge, bool."""
        distances = np.abs(np.asarray(scores)[..., None] - np.asarray(self.edges))
        return (distances < width).any(axis=-1)


AT_HALF = Steps((0.5,), (0.0, 1.0))


@dataclass(frozen=True)
class DecisionRule:
    """How scores become answers.

    Attributes:
        positive: Index of the positive label; the other of the two is its complement.
        attribute: Group attribute; None where one step function holds for all.
        steps: Group -> its step function; without an attribute, one for the name "".
        width: No answer is given to scores less than this from an edge.
    """

    positive: int
    attribute: str | None
    steps: Mapping[str, Steps]
    width: float = 0.0

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups it knows, in index order."""
        return tuple(self.steps)

    def selection(self, scores: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """The probability of the positive answer, were one given, float64 (examples,).

        Args:
            scores: float (examples,), probability of the positive label.
            groups: int (examples,), index into `groups`; None without an attribute.
        """
        return self._by_group(scores, groups, lambda steps, chosen: steps.at(chosen), float)

    def abstains(self, scores: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """Whether no answer is given, bool (examples,); arguments as of `selection`."""
        return self._by_group(
            scores, groups, lambda steps, chosen: steps.near(chosen, self.width), bool
        )

    def _by_group(
        self, scores: np.ndarray, groups: np.ndarray | None, apply: Any, dtype: type
    ) -> np.ndarray:
        indices = np.zeros(len(scores), int) if self.attribute is None else np.asarray(groups)
        answers: np.ndarray = np.zeros(len(scores), dtype)
        for index, steps in enumerate(self.steps.values()):
            chosen = indices == index
            answers[chosen] = apply(steps, scores[chosen])
        return answers

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> DecisionRule:
        """The rule that `to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        steps = {
            name: Steps(tuple(part["edges"]), tuple(part["selection"]))
            for name, part in document["steps"].items()
        }
        return cls(document["positive"], document["attribute"], steps, document["width"])
