"""Whom a recipe protects, single examples or users, and how many of them the data hold."""

from __future__ import annotations

import logging

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

    Warns where nobody can tell whether some of the users have validation examples too.

    Raises:
        UserError: As `users_of`.
    """
    users = users_of(recipe, dataset)
    if users is None:
        return len(dataset.train), "example"
    if len(dataset.validation) and dataset.validation.users is None:
        # No claim is void by it: the guarantee is of training examples. Nor need a validation set
        # that others collected know its users.
        logging.warning(
            "data.user: the validation examples do not have %r, so it cannot be seen whether users "
            "with training examples have validation examples too; epsilon does not cover what is "
            "measured on those. Name their users as well, or leave the validation split unset.",
            recipe.data.user,
        )
    return len(users), "user"
