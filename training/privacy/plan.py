"""PrivacyPlan: sampling, clipping, noise and accounting as one object that cannot drift apart.

Nothing else in Sterling sets a sampling probability, a clipping norm, a noise scale or the number
by which a noisy sum is divided; the step, the sampler and the ledger all ask the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import dp_accounting
import numpy as np

from configs.schema import PrivacySettings, require
from training.batching import Sampler
from training.privacy.accounting import (
    calibrate_noise,
    default_delta,
    epsilon_of,
    require_supported,
)
from training.privacy.clip_methods import (
    CLIP_METHODS,
    ClipMethod,
    FlatClipping,
    build_clip_method,
)
from training.privacy.clip_methods.base import LEAST_BOUND
from training.privacy.clip_watch import ClipWatch
from training.privacy.events import SCHEDULED, Neighbours, event_of, proven
from training.privacy.group_releases import GroupReleases
from training.privacy.mechanisms import (
    MECHANISMS,
    Draws,
    GaussianMechanism,
    Mechanism,
    build_mechanism,
)
from training.privacy.sampling import (
    SAMPLINGS,
    BalancedPoissonSampling,
    PoissonSampling,
    Sampling,
    build_sampling,
)
from training.privacy.statement import statement_of
from training.privacy.users import UserRows, UserSampler, require_users
from training.randomness import Randomness

Unit = Literal["example", "user"]


def _require_meaningful(delta: float, num_examples: int) -> None:
    require(
        delta < 1.0 / num_examples,
        "privacy.delta",
        delta,
        f"less than 1/N = {1 / num_examples:.3g}: at 1/N, publishing one whole record would "
        "already be allowed",
    )


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
        require(
            self.rows_per_record >= 1,
            "privacy.examples_per_user",
            self.rows_per_record,
            "a whole number >= 1",
        )
        require(
            not (self.by_user and isinstance(self.sampling, BalancedPoissonSampling)),
            "fairness.balanced_sampling",
            self.sampling.method,
            "null with privacy.unit: user, whose examples may be of several groups",
        )
        require(
            1 <= self.batch_size <= self.num_examples,
            "training.batch_size",
            self.batch_size,
            f"at most the {self.num_examples} training {self.unit}s",
        )
        require(self.steps >= 1, "training.steps", self.steps, "a whole number >= 1")
        require(
            self.clipping_norm >= LEAST_BOUND,
            "privacy.clipping_norm",
            self.clipping_norm,
            f"a number >= {LEAST_BOUND:g}: float32 loses the norms of smaller gradients",
        )
        require(
            self.noise_multiplier > 0,
            "privacy.noise_multiplier",
            self.noise_multiplier,
            "a number > 0",
        )
        require(0 < self.delta < 1, "privacy.delta", self.delta, "a probability in (0, 1)")
        require(
            not self.clipping.adapts or isinstance(self.mechanism, GaussianMechanism),
            "privacy.clipping.method",
            self.clipping.method,
            "a bound that stays, with noise that steps share (privacy.mechanism.method: "
            f"{self.mechanism.method}); an adaptive one goes with gaussian",
        )
        if self.watch is not None:
            require(
                self.watch.share is not None and isinstance(self.mechanism, GaussianMechanism),
                "privacy.clipping.watch.mode",
                "released",
                "marked, or null, with noise that steps share (privacy.mechanism.method: "
                f"{self.mechanism.method}): counts are released with gaussian noise of their own",
            )
        if self.neighbours is None:
            object.__setattr__(self, "neighbours", proven(self.sampling, self.mechanism)[0])
        if self.group_releases is not None:
            self._require_tables_proven(self.group_releases)
        # A combination without a proof is refused here.
        require_supported(self.event(1), self.accountant)

    def _require_tables_proven(self, tables: GroupReleases) -> None:
        key, value = "fairness.releases.noise_multiplier", tables.noise_multiplier
        require(
            isinstance(self.mechanism, GaussianMechanism) and isinstance(self.sampling, SCHEDULED),
            key,
            value,
            "null with steps that depend on each other; beside tables of groups is proven "
            "privacy.mechanism.method: gaussian with privacy.sampling.method: "
            + ", ".join(str(vars(cls)["method"]) for cls in SCHEDULED),
        )
        require(
            self.rows_per_record == 1 and not self.by_user,
            key,
            value,
            "null where a record is several examples: one of them is in several cells of a table",
        )

    @classmethod
    def dp_sgd(
        cls,
        *,
        num_examples: int,
        batch_size: int,
        steps: int,
        clipping_norm: float,
        noise_multiplier: float,
        delta: float,
        accountant: str = "pld",
        rows_per_record: int = 1,
        unit: Unit = "example",
    ) -> PrivacyPlan:
        """DP-SGD as Abadi et al. 2016 (arXiv:1607.00133): Poisson, flat clipping, Gaussian.

        Raises:
            SettingError: If a value is impossible, or delta is 1 / num_examples or more.
        """
        _require_meaningful(delta, num_examples)
        return cls(
            PoissonSampling(num_examples, batch_size),
            FlatClipping(clipping_norm),
            GaussianMechanism(noise_multiplier),
            steps=steps,
            delta=delta,
            accountant=accountant,
            rows_per_record=rows_per_record,
            unit=unit,
        )

    @classmethod
    def user_level_dp_sgd(
        cls, *, num_users: int, examples_per_user: int, **further: Any
    ) -> PrivacyPlan:
        """DP-SGD whose unit is a user (user-wise DP-SGD; Chua et al. 2024, arXiv:2406.14322).

        Args:
            num_users: Users of the training set.
            examples_per_user: Most examples of a user that a step reads.
            further: As `dp_sgd`; `batch_size` is the expected number of users.

        Raises:
            SettingError: As `dp_sgd`.
        """
        return cls.dp_sgd(
            num_examples=num_users, rows_per_record=examples_per_user, unit="user", **further
        )

    @classmethod
    def from_settings(
        cls,
        settings: PrivacySettings,
        *,
        num_examples: int,
        batch_size: int,
        steps: int,
        shares: Sequence[float] | None = None,
        watch: ClipWatch | None = None,
        versions: int = 1,
        group_releases: GroupReleases | None = None,
        counterparts: bool = False,
    ) -> PrivacyPlan:
        """Builds the plan; calibrates the noise where the settings name an epsilon.

        Args:
            settings: What is asked for.
            num_examples: Training examples, or users where the settings' unit is a user; public.
            batch_size: Expected number of them a step; public.
            steps: Releases planned.
            shares: Of groups that are to be drawn alike, each one's public share.
            watch: Who is clipped; only what is to be released becomes part of the plan.
            versions: Rows that one example takes, versions of it that are bounded together.
            group_releases, counterparts: As the plan's.

        Raises:
            SettingError: If a value is impossible or the guarantee cannot be met.
        """
        delta = default_delta(num_examples) if settings.delta is None else settings.delta
        _require_meaningful(delta, num_examples)
        noise = settings.noise_multiplier
        sampling = build_sampling(settings.sampling, num_examples, batch_size, shares)
        plan = cls(
            sampling,
            build_clip_method(settings.clipping, settings.clipping_norm),
            build_mechanism(settings.mechanism, 1.0 if noise is None else noise, sampling, steps),
            steps=steps,
            delta=delta,
            accountant=settings.accountant,
            neighbours=settings.neighbours,
            rows_per_record=settings.examples_per_user or versions,
            unit=settings.unit,
            watch=None if watch is None or watch.share is None else watch,
            group_releases=group_releases,
            counterparts=counterparts,
        )
        if settings.epsilon is None or settings.noise_multiplier is not None:
            return plan
        plan._require_affordable_tables(settings.epsilon)
        calibrated = calibrate_noise(
            lambda sigma: plan.with_noise(sigma).event(steps),
            settings.epsilon,
            delta,
            settings.accountant,
        )
        return plan.with_noise(calibrated)

    def _require_affordable_tables(self, epsilon: float) -> None:
        tables = self.tables(self.steps)
        if self.group_releases is None or not tables:
            return
        alone = epsilon_of(self.group_releases.event(tables), self.delta, self.accountant)
        require(
            alone < epsilon,
            "fairness.releases.noise_multiplier",
            self.group_releases.noise_multiplier,
            f"a larger number, or a larger fairness.releases.every: the {tables} tables planned "
            f"cost epsilon {alone:.4g} alone, and privacy.epsilon is {epsilon:g}",
        )

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
        sampling = _part(self.sampling)
        if self.by_user:
            sampling["num_users"] = sampling.pop("num_examples")
        return {
            **({"unit": "user"} if self.by_user else {}),
            "sampling": sampling,
            "clipping": _part(self.clipping),
            "mechanism": _part(self.mechanism),
            "steps": self.steps,
            "delta": self.delta,
            "accountant": self.accountant,
            "neighbours": self.neighbours,
            "rows_per_record": self.rows_per_record,
            # Left out where there is none: ledgers of before go on.
            **({} if self.watch is None else {"watch": asdict(self.watch)}),
            **(
                {}
                if self.group_releases is None
                else {"group_releases": self.group_releases.to_dict()}
            ),
            **({"counterparts": True} if self.counterparts else {}),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PrivacyPlan:
        """The plan that `to_dict` described.

        Raises:
            KeyError, TypeError, SettingError: If it is none.
        """
        sampling = dict(document["sampling"])
        if document.get("unit") == "user":
            sampling["num_examples"] = sampling.pop("num_users")
        tables = document.get("group_releases")
        return cls(
            **{
                **document,
                "group_releases": None if tables is None else GroupReleases(**tables),
                "sampling": _of_part(SAMPLINGS, sampling),
                "clipping": _of_part(CLIP_METHODS, document["clipping"]),
                "mechanism": _of_part(MECHANISMS, document["mechanism"]),
                "watch": None if "watch" not in document else ClipWatch(**document["watch"]),
            }
        )

    @property
    def fingerprint(self) -> str:
        """Changes whenever anything does that the guarantee depends on, but for the length."""
        parts = {key: value for key, value in self.to_dict().items() if key != "steps"}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def statement(self, releases: int, *, reproducible: bool, tables: int | None = None) -> str:
        """The guarantee in words, with every assumption it rests on.

        Args:
            releases, tables: As in `event`.
            reproducible: Whether a recipe fixes the seed of the noise.
        """
        return statement_of(self, releases, reproducible=reproducible, tables=tables)


def _part(part: Any) -> dict[str, Any]:
    # As JSON gives it back: lists, where the parts hold tuples.
    plain: dict[str, Any] = json.loads(json.dumps({"method": part.method, **asdict(part)}))
    return plain


def _of_part(registry: Mapping[str, type], document: Mapping[str, Any]) -> Any:
    fields = dict(document)
    return registry[fields.pop("method")](**fields)
