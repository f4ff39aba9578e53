"""Settings of the `privacy` section: the guarantee asked for, and how it is to be met."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from configs.schema.clipping import ClippingSettings
from configs.schema.errors import require
from configs.schema.mechanism import MechanismSettings
from configs.schema.sampling import SamplingSettings

_NO_GUARANTEE = {
    "gdp": "the central limit of Gaussian differential privacy can understate epsilon",
    "prv": "pld gives an upper bound at least as tight (connect-the-dots)",
}


@dataclass(frozen=True)
class PrivacySettings:
    """The differential-privacy guarantee asked for.

    Attributes:
        enabled: Train privately (DP-SGD). When false every other setting here is ignored.
        epsilon: Target privacy loss. Give this or `noise_multiplier`; with `calibrate: steps` or
            `batch_size`, both.
        noise_multiplier: Standard deviation of the noise divided by `clipping_norm`.
        calibrate: What is found from the others so that `epsilon` is met: `noise`; `steps`: the
            most that `training.steps` can be (leave it and `training.epochs` unset); `batch_size`:
            the largest `training.batch_size` (whatever is written there is replaced).
        delta: Probability with which epsilon may fail; none takes N^-1.1 for N training examples.
        clipping_norm: Bound on every example's gradient L2 norm.
        clipping: How every example's gradient is bounded.
        memory_budget: GB that per-example gradients may hold at once to save time (a replica); 0
            holds none, none as much as the trained weights take. Changes no guarantee;
            `sterling check-private --explain` shows what each layer does with it.
        sampling: How batches are drawn.
        mechanism: How noise is added.
        accountant: How epsilon is computed: `pld` (privacy loss distribution) or `rdp` (Renyi).
            `gdp` and `prv` appear in reports for comparison; they carry no guarantee.
        unit: Whom the guarantee protects: an `example`, or a `user` with all of their training
            examples (`data.user` names them). With `user`, N and `training.batch_size` count users.
        examples_per_user: With `unit: user`, the most examples of a user that a step reads, drawn
            anew each time. Epsilon does not depend on it; choose it without looking at the data.
        neighbours: What the guarantee hides: `add_remove` (whether an example is there at all),
            `zero_out` (whether it contributes anything) or `replace_one` (which example it is).
            None takes the customary one that is proven for sampling and mechanism. See
            `docs/accounting.md`.
    """

    enabled: bool = False
    epsilon: Optional[float] = None
    noise_multiplier: Optional[float] = None
    delta: Optional[float] = None
    clipping_norm: float = 1.0
    memory_budget: Optional[float] = None
    clipping: ClippingSettings = field(default_factory=ClippingSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    mechanism: MechanismSettings = field(default_factory=MechanismSettings)
    accountant: Literal["pld", "rdp", "gdp", "prv"] = "pld"
    unit: Literal["example", "user"] = "example"
    examples_per_user: Optional[int] = None
    neighbours: Optional[Literal["add_remove", "zero_out", "replace_one"]] = None
    calibrate: Literal["noise", "steps", "batch_size"] = "noise"

    def __post_init__(self) -> None:
        require(
            self.accountant not in _NO_GUARANTEE,
            "privacy.accountant",
            self.accountant,
            f"pld or rdp: {_NO_GUARANTEE.get(self.accountant)}; reports show it for comparison",
        )
        require(
            self.epsilon is None or 0 < self.epsilon < inf,
            "privacy.epsilon",
            self.epsilon,
            "a number > 0",
        )
        require(
            self.noise_multiplier is None or 0 < self.noise_multiplier < inf,
            "privacy.noise_multiplier",
            self.noise_multiplier,
            "a number > 0",
        )
        require(
            self.delta is None or 0 < self.delta < 1,
            "privacy.delta",
            self.delta,
            "a probability in (0, 1)",
        )
        require(
            0 < self.clipping_norm < inf,
            "privacy.clipping_norm",
            self.clipping_norm,
            "a number > 0",
        )
        require(
            self.memory_budget is None or 0 <= self.memory_budget < inf,
            "privacy.memory_budget",
            self.memory_budget,
            "a number of GB >= 0",
        )
        require(
            self.examples_per_user is None or self.examples_per_user >= 1,
            "privacy.examples_per_user",
            self.examples_per_user,
            "a whole number >= 1",
        )
        if self.enabled:
            self._require_unit()
            require(
                self.epsilon is not None or self.noise_multiplier is not None,
                "privacy.epsilon",
                self.epsilon,
                "a number > 0, because privacy is enabled and privacy.noise_multiplier is not set",
            )
            both = self.epsilon is not None and self.noise_multiplier is not None
            require(
                both or self.calibrate == "noise",
                "privacy.calibrate",
                self.calibrate,
                "noise, or privacy.epsilon and privacy.noise_multiplier both set",
            )
            require(
                not both or self.calibrate != "noise",
                "privacy.noise_multiplier",
                self.noise_multiplier,
                f"null where privacy.epsilon is set (it is {self.epsilon}); one follows from the "
                "other (or set privacy.calibrate to steps or batch_size)",
            )

    def _require_unit(self) -> None:
        by_user = self.unit == "user"
        require(
            by_user == (self.examples_per_user is not None),
            "privacy.examples_per_user",
            self.examples_per_user,
            "a whole number >= 1, because privacy.unit is user"
            if by_user
            else "null, or privacy.unit: user",
        )
