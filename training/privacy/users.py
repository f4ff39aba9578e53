"""From users drawn for a step to rows: at most k of each one's examples, side by side.

The feed of user-level privacy. A plan whose unit is a user samples users; this module turns every
user drawn into exactly k rows of a batch, of which those that hold no example are padding, so that
`training.privacy.records` can bound the rows together.

Guarantees (what epsilon depends on):
    All rows of a drawn user are that user's, and none of them is another's. Which users are drawn
    is the plan's sampling alone; it knows their number and nothing of their examples.
    Given that a user is drawn, its rows are a uniformly random subset of min(k, m) of its own m
    examples, independent of every other user's examples and rows. So the batch of a data set with
    one more user is that of the data set without, in distribution, and if the user is drawn, k
    more rows; their gradient is clipped as one. Epsilon depends on neither k nor m.

Rows are drawn afresh at every step: nothing is paid for it, since the bound holds for any k rows,
and a user's further examples are not lost, as they are when k of them are fixed beforehand.

Sources: McMahan et al. 2018 (arXiv:1710.06963); Chua et al. 2024, user-wise DP-SGD
(arXiv:2406.14322); Charles et al. 2024, user-level sampling (arXiv:2407.07737).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from configs.schema import UserError
from data.contracts import PADDING
from training.batching import Sampler
from training.randomness import Randomness


@dataclass(frozen=True, eq=False)
class UserRows:
    """Which rows are whose.

    Attributes:
        users: int64 (n,), a user's number for every row of the training set; numbers >= 0, of
            which some may be nobody's.
    """

    users: np.ndarray

    def __len__(self) -> int:
        """Users N."""
        return len(self.counts)

    @cached_property
    def _order(self) -> np.ndarray:
        """Rows user by user, int64 (n,); a user's in their original order."""
        return np.argsort(self.users, kind="stable").astype(np.int64)

    @cached_property
    def counts(self) -> np.ndarray:
        """Rows of every user, in order of the users' numbers, int64 (users,)."""
        counts = np.bincount(self.users)
        return counts[counts > 0]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum(self.counts) - self.counts

    def at(self, users: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The rows of users 0 .. N-1, int64 (k,), at places among their own, int64 (k, rows).

        Returns:
            int64 (k, rows), padding where the place is.
        """
        found = self._order[self._starts[users][:, None] + np.maximum(places, 0)]
        return np.where(places == PADDING, PADDING, found)


@dataclass(frozen=True)
class UserSampler:
    """Draws step t's rows; the same at any time for the same root.

    Attributes:
        of_users: Draws users.
        rows: Which rows are whose.
        examples_per_user: Rows of each drawn user, k.
        randomness: Where the choice among a user's rows comes from.
    """

    of_users: Sampler
    rows: UserRows
    examples_per_user: int
    randomness: Randomness

    def draw(self, step: int) -> np.ndarray:
        """The rows of step `step`, int64 (users drawn * k,), a user's side by side."""
        drawn = self.of_users.draw(step)
        generator = self.randomness.generator("rows of users", step)
        places = random_subsets(generator, self.rows.counts[drawn], self.examples_per_user)
        return self.rows.at(drawn, places).ravel()


def require_users(users: UserRows | None, num_users: int | None) -> UserRows:
    """The users of the training examples, if they are those that a plan was made for.

    Args:
        users: Whose each example is; None where nobody said.
        num_users: The plan's; None where its unit is an example.

    Raises:
        UserError: If they are missing, not wanted, or not as many as planned.
    """
    if num_users is None or users is None:
        raise UserError(
            "users: expected "
            + (
                "none, because the plan protects single examples. Make it with "
                "PrivacyPlan.user_level_dp_sgd to protect users"
                if num_users is None
                else "the user of every training example, because the plan protects users "
                "(private_dataset(plan, x, y, users=...) takes them)"
            )
        )
    if len(users) != num_users:
        raise UserError(
            f"the plan is for {num_users} users, and the training examples are of {len(users)}: "
            "the sampling probability, and with it epsilon, would be another. Make the plan with "
            f"num_users={len(users)}, after everything that is held out was cut off."
        )
    return users


def random_subsets(generator: np.random.Generator, sizes: np.ndarray, most: int) -> np.ndarray:
    """Of each set 0 .. size-1 a uniformly random subset, by Floyd's algorithm, all at once.

    Args:
        generator: Draws exact uniform integers.
        sizes: int64 (sets,), each >= 1.
        most: Elements wanted; a smaller set is taken whole.

    Returns:
        int64 (sets, most), filled up with padding.
    """
    chosen = np.tile(np.arange(most, dtype=np.int64), (len(sizes), 1))
    chosen[chosen >= sizes[:, None]] = PADDING
    large = np.flatnonzero(sizes > most)
    subsets = np.empty((len(large), most), np.int64)
    for place in range(most):
        last = sizes[large] - most + place
        element = generator.integers(0, last, endpoint=True)
        known = (subsets[:, :place] == element[:, None]).any(axis=1)
        subsets[:, place] = np.where(known, last, element)
    chosen[large] = subsets
    return chosen
