"""What the recipe's `fairness` section changes before training: who is drawn, and in which version.

A privacy plan must know of it, since it decides how likely an example is drawn and how many rows
one takes; what is minimised (`mitigation`) in turn may need the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import FairnessSettings, SwapSettings, require
from data import Counterparts, Dataset, Swaps, Versions
from training.fairness.balancing import Balance
from training.fairness.games import require_every_label


@dataclass(frozen=True)
class Preparation:
    """How examples come to training so that groups fare alike.

    Attributes:
        balance: Groups that batches are to hold alike; none to draw everybody alike.
        swaps: Versions of training examples; none for the originals alone.
        together: Whether all versions of an example are in a batch, rather than one at random.
        rate: Of one at random, how likely a changed one is; none for all alike likely.
    """

    balance: Balance | None = None
    swaps: Versions | None = None
    together: bool = False
    rate: float | None = None

    @property
    def rows_per_record(self) -> int:
        """Rows that one example takes in a batch."""
        return 1 if self.swaps is None or not self.together else self.swaps.count

    @property
    def counterparts(self) -> bool:
        """Whether versions are images that the user made, and not made here of each example."""
        return self.swaps is not None and self.swaps.modality == Counterparts.modality

    @property
    def shares(self) -> tuple[float, ...] | None:
        """What a privacy plan must know of `balance`."""
        return None if self.balance is None else self.balance.shares

    @classmethod
    def of(cls, settings: FairnessSettings, dataset: Dataset) -> Preparation:
        """What the recipe asks for.

        Raises:
            SettingError: If the data have no such attribute, public counts lack a group or label,
                a group that is to be drawn by label lacks one (without privacy: it would tell), a
                word list cannot be read, or an image's counterpart cannot be its version.
        """
        balance = None
        if settings.balanced_sampling is not None and settings.attribute is not None:
            info = dataset.info
            require(
                settings.attribute in info.groups,
                "fairness.attribute",
                settings.attribute,
                f"one of the data's group attributes {list(info.groups)}",
            )
            if settings.balanced_sampling == "group_and_label" and settings.public_counts is None:
                require_every_label(dataset, settings.attribute, "fairness.balanced_sampling")
            balance = Balance.of(
                settings.balanced_sampling,
                settings.attribute,
                settings.public_counts,
                info.groups[settings.attribute],
                info.label_names,
            )
        swaps = settings.swaps
        return cls(balance, _versions_of(swaps, dataset), swaps.mode == "together", swaps.rate)


def _versions_of(settings: SwapSettings, dataset: Dataset) -> Versions | None:
    for name, wanted, fits in (
        ("word_lists", settings.word_lists, Swaps.modality),
        ("image_pairs", settings.image_pairs, Counterparts.modality),
    ):
        found = dataset.info.modality
        require(
            not wanted or found == fits,
            f"fairness.swaps.{name}",
            wanted,
            f"nothing: it changes {fits}, and the data are {found}",
        )
    if settings.word_lists:
        return Swaps.read("fairness.swaps.word_lists", settings.word_lists)
    if settings.image_pairs:
        return Counterparts.read("fairness.swaps.image_pairs", settings.image_pairs, dataset)
    return None
