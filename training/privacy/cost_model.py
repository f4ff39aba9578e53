"""What a matrix gradient's norm and sum cost, from static shapes; and which form to take.

A layer that is a matrix product over time (Dense, EinsumDense, convolution) can be clipped in
three forms, all exact:

=============  ==========================================================================
form           the norm                                  the clipped sum
=============  ==========================================================================
`ghost`        two Gram matrices, time x time            one ordinary product
`instantiate`  every example's gradient, kept            adds them up, no further product
`recompute`    every example's gradient, let go again    one ordinary product
=============  ==========================================================================

The ordinary product is what plain training pays anyway, so `instantiate` costs no further
multiplications, only the traffic of its (batch, rows, columns) matrices, and their memory until
the clip factors are known; `ghost` costs the Gram matrices and keeps nothing.

Nothing here imports TensorFlow. Sources: Li et al. 2022 (arXiv:2110.05679) for ghost norms, Bu et
al. 2022 (2205.10683) for choosing by shapes; that paper compares memory, this module time, within
a limit on memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

# How many floating-point operations take as long as moving one byte. Measured on cores with
# AVX-512 (119 GFLOP/s and 8 to 19 GB/s each; with AVX2 58 and 12: there, 5 would be right). A wrong
# value costs time, never exactness.
FLOPS_PER_BYTE = 12.0
_FLOAT_BYTES = 4


class Form(str, Enum):
    """How a matrix gradient is clipped."""

    GHOST = "ghost"
    INSTANTIATE = "instantiate"
    RECOMPUTE = "recompute"


@dataclass(frozen=True)
class MatrixWork:
    """The shapes of one matrix gradient: for each example, a sum over time of outer products.

    Attributes:
        batch: Examples.
        time: Products added up for each example: tokens, or output positions of a convolution.
        rows: Rows of the matrix: inputs, for a convolution window places times channels.
        columns: Columns of the matrix: outputs.
        places: Places of a convolution's window; 1 for layers without patches.
        pixels: Input positions of a convolution; 0 for layers without patches.
        blocks: Blocks of columns that have inputs of their own; 1 for a matrix with one input.
    """

    batch: int
    time: int
    rows: int
    columns: int
    places: int = 1
    pixels: int = 0
    blocks: int = 1

    @property
    def plain_flops(self) -> float:
        """The weight gradient of ordinary training."""
        return 2.0 * self.batch * self.time * self.rows * self.columns

    @property
    def matrices_bytes(self) -> float:
        """All examples' gradients in float32."""
        return float(_FLOAT_BYTES * self.batch * self.rows * self.columns)

    def flops(self, form: Form) -> float:
        """Floating-point operations of norm and sum."""
        if form is Form.INSTANTIATE:
            return self.plain_flops
        if form is Form.RECOMPUTE:
            return 2 * self.plain_flops
        if self.time == 1:
            return self.plain_flops + 2.0 * self.batch * (self.rows + self.columns)
        # A convolution's input Gram matrix is that of its pixels, added up over the window.
        side, width = (self.pixels or self.time), self.rows // self.places
        width *= self.blocks
        grams = 2.0 * self.batch * (side**2 * width + self.time**2 * self.columns)
        return self.plain_flops + grams

    def bytes_moved(self, form: Form) -> float:
        """Bytes written and read between the products, beside their own operands."""
        patches = 3.0 * self.batch * self.time * self.rows if self.places > 1 else 0.0
        if form is Form.GHOST:
            side = self.pixels or self.time
            grams = 3.0 * self.blocks * self.time**2 if self.time > 1 else 0.0
            if self.places > 1:  # padded, and added up axis by axis
                grams += 8.0 * side**2
            scaled = 2.0 * self.time * min(self.blocks * self.rows, self.columns)
            return _FLOAT_BYTES * self.batch * (grams + scaled)
        passes = 3 if form is Form.INSTANTIATE else 2
        return _FLOAT_BYTES * patches + passes * self.matrices_bytes

    def kept_bytes(self, form: Form) -> float:
        """Bytes held from the norm until the clip factors are known."""
        return self.matrices_bytes if form is Form.INSTANTIATE else 0.0

    def cost(self, form: Form) -> float:
        """Time, in floating-point operations."""
        return self.flops(form) + FLOPS_PER_BYTE * self.bytes_moved(form)


def fastest(work: MatrixWork, forms: Sequence[Form] = tuple(Form)) -> Form:
    """The form that takes the least time; the earlier one where two take the same."""
    return min(forms, key=work.cost)


def choose_forms(works: Sequence[MatrixWork], memory_bytes: float) -> list[Form]:
    """The form of each gradient so that what all keep together stays within a limit.

    Starts from the fastest form of each and gives up those that save most memory for the least
    time, until the rest fits.

    Args:
        works: One for each gradient.
        memory_bytes: Most that may be kept; 0 keeps nothing.
    """
    forms = [fastest(work) for work in works]
    kept = sum(work.kept_bytes(form) for work, form in zip(works, forms, strict=True))
    frugal = (Form.GHOST, Form.RECOMPUTE)

    def time_for_a_byte(i: int) -> float:
        other = fastest(works[i], frugal)
        return (works[i].cost(other) - works[i].cost(forms[i])) / works[i].kept_bytes(forms[i])

    keeping = [i for i, form in enumerate(forms) if works[i].kept_bytes(form)]
    for i in sorted(keeping, key=time_for_a_byte):
        if kept <= memory_bytes:
            break
        kept -= works[i].kept_bytes(forms[i])
        forms[i] = fastest(works[i], frugal)
    return forms
