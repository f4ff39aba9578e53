"""Settings of the `privacy.clipping` section: how every example's gradient is bounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from configs.schema.errors import require, require_once_each

_KEY = "privacy.clipping"


@dataclass(frozen=True)
class ClippingGroup:
    """Variables that are bounded together.

    Attributes:
        variables: Pattern of their paths (`*` and `?` as in file names): `bert/embeddings/*`.
        bound: Their bound in L2 norm; null shares what the other groups leave.
    """

    variables: str
    bound: Optional[float] = None

    def __post_init__(self) -> None:
        require(
            self.bound is None or 0 < self.bound < inf,
            f"{_KEY}.groups.bound",
            self.bound,
            "a number > 0",
        )


@dataclass(frozen=True)
class ClippingWatchSettings:
    """Who is being clipped: shares and lengths of gradients by group, over each epoch.

    Attributes:
        mode: null: nothing is counted. `marked`: bare counts of training examples, for your eyes
            only; they are marked as not covered by epsilon wherever they appear. `released`:
            noisy counts that the privacy budget pays for, and that may be published.
        attribute: The group attribute that is watched; required with a mode.
        share: With `released`, share of the privacy budget that the counts take.
    """

    mode: Optional[Literal["marked", "released"]] = None
    attribute: Optional[str] = None
    share: float = 0.01

    def __post_init__(self) -> None:
        require(
            (self.mode is None) == (self.attribute is None),
            f"{_KEY}.watch.attribute",
            self.attribute,
            f"a group attribute where, and only where, {_KEY}.watch.mode is marked or released",
        )
        require(
            0 < self.share <= 0.5,
            f"{_KEY}.watch.share",
            self.share,
            "a share in (0, 0.5]",
        )


@dataclass(frozen=True)
class ClippingSettings:
    """How every example's gradient is bounded by `privacy.clipping_norm`.

    Attributes:
        method: `flat`: all trainable variables together. `per_layer`: each layer by itself, all
            with the same bound. `groups`: groups of variables (see `groups`). `automatic`:
            normalised rather than cut, so that the bound needs no tuning. `adaptive`: flat, with
            a bound that follows a private quantile of the norms. `global_adapt`: all scaled by
            one factor up to a threshold that follows a private quantile, and cut beyond.
        groups: For `groups`: patterns of variables' paths, with bounds or without; the first
            that matches counts. Squares of the bounds add up to that of `clipping_norm`.
        stability: For `automatic`: gradients much smaller than this stay small.
        threshold: For `global_adapt`: where the threshold starts; null takes `clipping_norm`.
        target_quantile: For `adaptive`: share of examples to be left unclipped, null for 0.5. For
            `global_adapt`: share to be left within the threshold, null for 0.9.
        learning_rate: For both: bound or threshold moves by at most exp(learning_rate) a step.
        count_share: For both: share of the privacy budget for finding bound or threshold; null
            takes what Andrew et al. recommend (noise of batch_size / 20 on the count), at most 0.1.
        watch: Whether to count who is being clipped.
    """

    method: Literal["flat", "per_layer", "groups", "automatic", "adaptive", "global_adapt"] = "flat"
    groups: list[ClippingGroup] = field(default_factory=list)
    stability: float = 0.01
    threshold: Optional[float] = None
    target_quantile: Optional[float] = None
    learning_rate: float = 0.2
    count_share: Optional[float] = None
    watch: ClippingWatchSettings = field(default_factory=ClippingWatchSettings)

    def __post_init__(self) -> None:
        wants_groups = self.method == "groups"
        require(
            wants_groups == bool(self.groups),
            f"{_KEY}.groups",
            self.groups,
            "at least one group, because privacy.clipping.method is groups"
            if wants_groups
            else f"nothing, because privacy.clipping.method is {self.method}, not groups",
        )
        require_once_each(f"{_KEY}.groups", [group.variables for group in self.groups])
        require(0 < self.stability < inf, f"{_KEY}.stability", self.stability, "a number > 0")
        require(
            self.threshold is None or (0 < self.threshold < inf and self.method == "global_adapt"),
            f"{_KEY}.threshold",
            self.threshold,
            f"a number > 0 where {_KEY}.method is global_adapt, else null",
        )
        require(
            self.target_quantile is None or 0 < self.target_quantile < 1,
            f"{_KEY}.target_quantile",
            self.target_quantile,
            "a share in (0, 1)",
        )
        require(
            0 < self.learning_rate <= 2,
            f"{_KEY}.learning_rate",
            self.learning_rate,
            "a number in (0, 2]",
        )
        require(
            self.count_share is None or 0 < self.count_share < 1,
            f"{_KEY}.count_share",
            self.count_share,
            "a share in (0, 1)",
        )
