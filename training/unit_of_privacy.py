"""Whom a recipe protects, single examples or users, and how many of them the data hold."""

from __future__ import annotations

import numpy as np

from configs.schema import Recipe, SettingError, UserError
from data import Dataset
from training.privacy.users import UserRows


def users_of(recipe: Recipe, dataset: Dataset) -> UserRows | None:
    """Whose each training example is, where the recipe protects users; else None.

    Raises:
        SettingError: If the data do not say.
        UserError: If some of the users have validation examples too.
    """
    if not recipe.privacy.enabled or recipe.privacy.unit != "user":
        return None
    users, held_out = dataset.train.users, dataset.validation.users
    if users is None:
        raise SettingError(
            "data.user", recipe.data.user, f"what names the users of {dataset.info.name}"
        )
    both = 0 if held_out is None else len(np.intersect1d(users, held_out))
    if both:
        raise UserError(
            f"data.{recipe.data.source}: {both} users have examples in the training and in the "
            "validation split, where no epsilon would cover them. Leave the validation split "
            "unset, so that it is cut from train user by user; or take these users out of one."
        )
    return UserRows(users)


def records_of(recipe: Recipe, dataset: Dataset) -> tuple[int, str]:
    """How many records the recipe's steps draw from, and their unit: `example` or `user`.

    Raises:
        UserError: As `users_of`.
    """
    users = users_of(recipe, dataset)
    return (len(dataset.train), "example") if users is None else (len(users), "user")
