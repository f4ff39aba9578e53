"""Checks, without a TPU, whether a TPU can compile a recipe's step; lists what keeps it from one.

    sterling check-tpu RECIPE.yaml

The step is traced as `sterling train` runs it and translated for XLA, but not run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace

from configs.schema import Recipe, UserError
from scripts.arguments import parse_recipe, recipe_parser, say_default
from scripts.command import run_command, start_tensorflow


def main(argv: Sequence[str]) -> None:
    """Body of `sterling check-tpu`."""
    parser = recipe_parser("check-tpu", "[RECIPE.yaml]", __doc__)
    arguments = parse_recipe(parser, argv)
    say_default(argv, arguments.recipe)
    start_tensorflow(debug=arguments.options.debug)
    check(arguments.recipe)


def check(recipe: Recipe) -> None:
    """Prints what a TPU would be asked to do, or every operation that it cannot compile.

    Raises:
        UserError: If there is such an operation, or XLA cannot translate the step.
    """
    import tensorflow as tf

    from training.run_directory import RunDirectory
    from training.session import open_session
    from training.tpu_lowering import lowering_of
    from training.xla_operations import obstacles_of

    # Frozen layers computed ahead would not be looked at; within the step they are.
    training = replace(
        recipe.training, strategy="one_device", jit_compile=False, cache_frozen_gb=0.0
    )
    session = open_session(replace(recipe, training=training), for_tpu=True)
    with tempfile.TemporaryDirectory() as nothing_is_written_to:
        loop = session.loop(RunDirectory.at(nothing_is_written_to), [], None, verbose=0)
        batch = next(loop.feed(0, 1))
    specification = tf.nest.map_structure(tf.TensorSpec.from_tensor, batch)
    obstacles = obstacles_of(loop.step.trace(specification), session.model.trained)
    for obstacle in obstacles:
        print(f"- {obstacle}")
    if obstacles:
        raise UserError(
            f"model {recipe.model.name}: {len(obstacles)} operation(s) keep its step from a TPU"
        )
    lowering = lowering_of(loop.step, specification)
    print(f"model {recipe.model.name}: no operation keeps its step from a TPU")
    if session.plan is not None and lowering.whole_products < lowering.products:
        raise UserError(
            f"training.strategy: {lowering.products - lowering.whole_products} matrix products of "
            "the private step do not ask for whole float32"
        )
    print(
        f"{lowering.products} matrix products and convolutions of float32, "
        + (
            "all in whole float32"
            if session.plan is not None
            else "which a TPU takes as bfloat16, as is usual without privacy"
        )
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
