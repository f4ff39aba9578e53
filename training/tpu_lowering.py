"""A step as XLA takes it: whether it can be translated, and how exactly a TPU would multiply.

TensorFlow translates a step into XLA's language (HLO) before any device is asked, so that this is
seen on any machine: an argument that must be known when the step is compiled, a size that is not,
and the precision asked for every matrix product. A TPU multiplies float32 operands as bfloat16
unless it is asked for the highest precision, which `tf.config.experimental.
enable_tensor_float_32_execution(False)` does for TPUs too, by its own documentation; what the TPU
then makes of it is measured on the TPU (`training.privacy.measured_precision`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from configs.schema import UserError
from training.steps import TrainingStep

_FLOAT32_PRODUCT = re.compile(r" (?:dot|convolution)\(f32\[")
_WHOLE = "operand_precision={highest,highest}"
_DYNAMIC_SHAPE = re.compile(r"\[[^\]]*<=\d")


@dataclass(frozen=True)
class Lowering:
    """What the programs of a step ask of the device that runs them.

    Attributes:
        products: Matrix products and convolutions of float32 operands.
        whole_products: Those of which the highest precision is asked.
    """

    products: int
    whole_products: int


def lowering_of(step: TrainingStep, batch: Any) -> Lowering:
    """Translates a step for XLA, and reads off what it asks for; runs nothing.

    Args:
        step: On one device.
        batch: The feed's `element_spec`.

    Raises:
        UserError: If XLA cannot translate it, or a size is left open.
    """
    try:
        programs = [hlo_of(*program) for program in step.replica_programs(batch)]
    except (ValueError, tf.errors.OpError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"training.strategy: XLA cannot translate the step: {error}") from error
    return read(programs)


def hlo_of(function: Callable[..., Any], specifications: Sequence[Any]) -> str:
    """A program as XLA takes it (HLO), before it optimizes.

    Args:
        function: Of tensors.
        specifications: Of its arguments.

    Raises:
        ValueError: If XLA cannot take it; says why in XLA's words.
    """
    compiled = tf.function(function, autograph=False, jit_compile=True)
    # It wants values, which it does not look at.
    zeros = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), specifications)
    return str(compiled.experimental_get_compiler_ir(*zeros)(stage="hlo"))


def read(programs: Sequence[str]) -> Lowering:
    """Reads programs in HLO.

    Raises:
        UserError: If a size is left open.
    """
    lines = [line for program in programs for line in program.splitlines()]
    for line in lines:
        if _DYNAMIC_SHAPE.search(line):
            raise UserError(
                "training.strategy: a size in the step is not known when it is compiled, as a TPU "
                f"needs it: {line.strip()[:200]}"
            )
    products = [line for line in lines if _FLOAT32_PRODUCT.search(line)]
    return Lowering(len(products), sum(_WHOLE in line for line in products))
