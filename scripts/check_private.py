"""Checks whether a recipe's model can be trained privately; lists every problem at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from configs.schema import Recipe, UserError
from scripts.arguments import parse_recipe, recipe_parser
from scripts.command import run_command


def main(argv: Sequence[str]) -> None:
    """Body of `sterling check-private`."""
    parser = recipe_parser("check-private", "[RECIPE.yaml]", __doc__)
    check(parse_recipe(parser, argv).recipe)


def check(recipe: Recipe) -> None:
    """Prints "no problem found", or every problem.

    Raises:
        UserError: If there is a problem; says how many, after they were printed.
    """
    import keras

    import data
    from training.losses import cross_entropy
    from training.privacy.inspection import problems_of
    from training.session import build_model

    keras.config.set_dtype_policy(recipe.training.precision)
    dataset = data.load(recipe.data)
    model = build_model(recipe, dataset).model
    loss = cross_entropy(dataset.info.label_names, recipe.training.class_weights)
    problems = problems_of(model, loss)
    for problem in problems:
        print(f"- {problem}")
    if problems:
        raise UserError(
            f"model {recipe.model.name}: {len(problems)} problem(s) keep it from being private"
        )
    print(f"model {recipe.model.name}: no problem found")


if __name__ == "__main__":
    sys.exit(run_command(main))
