"""PrivacyPlan: sampling, clipping, noise and accounting as one object that cannot drift apart.

Nothing else in Sterling sets a sampling probability, a clipping norm, a noise scale or the number
by which a noisy sum is divided; the step, the sampler and the ledger all ask the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import dp_accounting
import numpy as np

from training.batching import Sampler
from training.privacy import planning
from training.privacy.accounting import epsilon_of
from training.privacy.clip_methods import ClipMethod
from training.privacy.clip_watch import ClipWatch
from training.privacy.events import Neighbours, event_of, proven
from training.privacy.group_releases import GroupReleases
from training.privacy.mechanisms import Draws, Mechanism
from training.privacy.plan_document import document_of, fields_of, fingerprint_of
from training.privacy.sampling import BalancedPoissonSampling, Sampling
from training.privacy.soundness import require_proven, require_sound
from training.privacy.statement import statement_of
from training.privacy.users import UserRows, UserSampler, require_users
from training.randomness import Randomness

Unit = Literal["example", "user"]


@dataclass(frozen=True)
class PrivacyPlan:
    """Noisy sums of clipped per-example gradients, and what releasing them costs.

    Guarantees:
        Releasing `steps` noisy gradient sums, and anything computed from them alone, is
        (epsilon, delta)-differentially private for `neighbours`, with respect to one record: an
        example, or a user with all of their training examples (`unit`). Noisy tables of groups,
        where the plan has any, are part of that epsilon.

    Attributes:
        sampling: Which examples form each batch.
        clipping: How each example's gradient is bounded.
        mechanism: Which noise each sum receives.
        steps: Releases planned.
        delta: Probability with which epsilon may fail.
        accountant: `pld` or `rdp`.
        neighbours: What the guarantee hides: `add_remove`, `zero_out` or `replace_one`
            (`training.privacy.independent_events` defines them). None takes the customary one of
            those that are proven for sampling and mechanism, and says which.
        rows_per_record: Rows of the batch that are one record, bounded together: 1 where every
            example is protected by itself, k where a user's (up to k) examples are, or k versions
            of one example, made from it alone.
        unit: Whom the guarantee protects. With `user`, what `sampling` draws and counts are users.
        watch: Counts of who is clipped that are released beside each sum; none for none.
        group_releases: Noisy tables of groups that are released beside; None for none.
        counterparts: Whether an example may come as an image that the user made of it, and that
            counts as part of its record (`data.counterparts`).
    """

    sampling: Sampling
    clipping: ClipMethod
    mechanism: Mechanism
    steps: int
    delta: float
    accountant: str = "pld"
    neighbours: Neighbours | None = None
    rows_per_record: int = 1
    unit: Unit = "example"
    watch: ClipWatch | None = None
    group_releases: GroupReleases | None = None
    counterparts: bool = False

    def __post_init__(self) -> None:
        require_sound(self)
        if self.neighbours is None:
            object.__setattr__(self, "neighbours", proven(self.sampling, self.mechanism)[0])
        require_proven(self)

    dp_sgd = classmethod(planning.dp_sgd)
    user_level_dp_sgd = classmethod(planning.user_level_dp_sgd)
    from_settings = classmethod(planning.from_settings)

    def with_noise(self, noise_multiplier: float) -> PrivacyPlan:
        """The same plan at another noise multiplier."""
        return replace(self, mechanism=self.mechanism.with_noise(noise_multiplier))

    @property
    def by_user(self) -> bool:
        """Whether the unit of privacy is a user."""
        return self.unit == "user"

    @property
    def augmented(self) -> bool:
        """Whether a record's rows are versions of one example, made from it alone."""
        return not self.by_user and self.rows_per_record > 1

    @property
    def num_examples(self) -> int:
        """Training examples, or users where the unit is a user; public."""
        return self.sampling.num_examples

    @property
    def batch_size(self) -> int:
        """Expected examples (or users) a step, by which noisy sums are divided; public."""
        return self.sampling.batch_size

    @property
    def clipping_norm(self) -> float:
        """Bound on what one record can add to the (first) sum, in L2 norm."""
        return self.clipping.clipping_norm

    @property
    def noise_multiplier(self) -> float:
        return self.mechanism.noise_multiplier

    @property
    def needs_one_root(self) -> bool:
        """Whether a run that is resumed must draw every step from the root it began with."""
        return self.mechanism.needs_one_root or self.sampling.period > 1

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each coordinate of the (first) clipped sum."""
        return self.clipping.noise_stddev(self._sum_noise_multiplier, self.batch_size)

    @property
    def _sum_noise_multiplier(self) -> float:
        """What the counts of who is clipped leave for the clipping method to divide."""
        if self.watch is None:
            return self.noise_multiplier
        return self.watch.sum_noise_multiplier(self.noise_multiplier)

    def tables(self, releases: int) -> int:
        """Tables of groups that go with the first `releases` steps."""
        return 0 if self.group_releases is None else self.group_releases.within(releases)

    def event(self, releases: int, tables: int | None = None) -> dp_accounting.DpEvent:
        """What `releases` steps cost, as the accountants understand it.

        Args:
            releases: Noisy gradients.
            tables: Noisy tables of groups beside them; None for those that go with the steps.
        """
        steps = event_of(self.sampling, self.mechanism, releases, self.neighbours)
        count = self.tables(releases) if tables is None else tables
        if self.group_releases is None or not count:
            return steps
        beside = self.group_releases.event(count)
        return dp_accounting.ComposedDpEvent((steps, beside)) if releases else beside

    def epsilon(self, releases: int, tables: int | None = None) -> float:
        """Epsilon spent by `releases` steps (and `tables`, as in `event`) at this plan's delta."""
        return epsilon_of(self.event(releases, tables), self.delta, self.accountant)

    def sampler(
        self,
        randomness: Randomness,
        users: UserRows | None = None,
        cells: np.ndarray | None = None,
    ) -> Sampler:
        """What draws the rows of every step, `rows_per_record` side by side for each user.

        (Where the rows of a record are versions of one example, it draws the examples.)

        Args:
            randomness: Where the draws come from.
            users: Whose each row is, where the unit is a user; else it must be None.
            cells: The cell of every training example, int (num_examples,), where groups are
                balanced; else ignored.

        Raises:
            UserError: If users are missing, not wanted, or not as many as planned.
            SettingError: If groups are to be balanced and nobody's is known.
        """
        if isinstance(self.sampling, BalancedPoissonSampling):
            drawn: Sampler = self.sampling.sampler(randomness, cells)
        else:
            drawn = self.sampling.sampler(randomness)
        if users is None and not self.by_user:
            return drawn
        known = require_users(users, self.num_examples if self.by_user else None)
        return UserSampler(drawn, known, self.rows_per_record, randomness)

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        """The noise of `step` for `tensors` released tensors."""
        return self.mechanism.draws(step, randomness, tensors)

    def query(self) -> Any:
        """TF-Privacy's query that makes a release of the clipped sums."""
        return self.clipping.query(self._sum_noise_multiplier, self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the ledger's header."""
        return document_of(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PrivacyPlan:
        """The plan that `to_dict` described.

        Raises:
            KeyError, TypeError, SettingError: If it is none.
        """
        return cls(**fields_of(document))

    @property
    def fingerprint(self) -> str:
        """Changes whenever anything does that the guarantee depends on, but for the length."""
        return fingerprint_of(self.to_dict())

    def statement(self, releases: int, *, reproducible: bool, tables: int | None = None) -> str:
        """The guarantee in words, with every assumption it rests on.

        Args:
            releases, tables: As in `event`.
            reproducible: Whether a recipe fixes the seed of the noise.
        """
        return statement_of(self, releases, reproducible=reproducible, tables=tables)
