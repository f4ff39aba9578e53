"""What keeps a model from being private: a layer, what is wrong with it, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import UserError


@dataclass(frozen=True)
class Problem:
    """One reason why per-example gradients do not exist or would not be covered.

    Attributes:
        layer_path: Path of the layer; "model" or "loss" where no layer is to blame.
        what: What is wrong, continuing "layer such-and-such ...".
        remedy: What to do about it, a sentence.
    """

    layer_path: str
    what: str
    remedy: str

    def __str__(self) -> str:
        name = self.layer_path
        subject = name if name in ("model", "loss") else f"layer '{name}'"
        return f"{subject} {self.what}. {self.remedy}"


def refuse(problems: Sequence[Problem]) -> None:
    """Raises `UserError` with the first problem, its remedy and how many more there are.

    `problems_of` and `sterling check-private` list them all.
    """
    if not problems:
        return
    more = len(problems) - 1
    others = f" {more} more such problem(s); sterling check-private lists them." if more else ""
    raise UserError(f"model: cannot be trained privately: {problems[0]}{others}")
