"""What the recipe's `fairness` section changes before training: who is drawn, and in which version.

A privacy plan must know of it, since it decides how likely an example is drawn and how many rows
one takes; what is minimised (`mitigation`) in turn may need the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import FairnessSettings, require
from data import Dataset, Swaps
from training.fairness.balancing import Balance


@dataclass(frozen=True)
class Preparation:
    """How examples come to training so that groups fare alike.

    Attributes:
        balance: Groups that batches are to hold alike; none to draw everybody alike.
        swaps: Versions of training texts; none for the originals alone.
        together: Whether all versions of an example are in a batch, rather than one at random.
    """

    balance: Balance | None = None
    swaps: Swaps | None = None
    together: bool = False

    @property
    def rows_per_record(self) -> int:
        """Rows that one example takes in a batch."""
        return 1 if self.swaps is None or not self.together else self.swaps.count

    @property
    def shares(self) -> tuple[float, ...] | None:
        """What a privacy plan must know of `balance`."""
        return None if self.balance is None else self.balance.shares

    @classmethod
    def of(cls, settings: FairnessSettings, dataset: Dataset) -> Preparation:
        """What the recipe asks for.

        Raises:
            SettingError: If the data have no such attribute, public counts lack a group or label,
                or a word list cannot be read.
        """
        swaps = balance = None
        if settings.swaps.word_lists:
            swaps = Swaps.read("fairness.swaps.word_lists", settings.swaps.word_lists)
        if settings.balanced_sampling is not None and settings.attribute is not None:
            info = dataset.info
            require(
                settings.attribute in info.groups,
                "fairness.attribute",
                settings.attribute,
                f"one of the data's group attributes {list(info.groups)}",
            )
            balance = Balance.of(
                settings.balanced_sampling,
                settings.attribute,
                settings.public_counts,
                info.groups[settings.attribute],
                info.label_names,
            )
        return cls(balance, swaps, settings.swaps.mode == "together")
