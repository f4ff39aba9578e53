"""Lets XLA use the processor's widest vectors.

For fear of slower clocks XLA keeps to 256 bits where a processor has 512 (a model of 23 M weights,
two cores with AVX-512: its noise takes 57 ms of processor time in place of 100). Noise is the same
to the bit, being made element by element; a whole compiled step may add its sums in another order.
"""

from __future__ import annotations

import os

_FLAG = "--xla_cpu_prefer_vector_width"


def prefer_wide_vectors() -> None:
    """Asks for 512 bits, unless `XLA_FLAGS` says a width or names a file of flags.

    Without effect on narrower processors.

    To be called before anything is compiled: XLA reads its flags once a process. Later, noise is
    only slower.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    names_a_file = bool(flags.strip()) and not flags.strip().startswith("-")
    if _FLAG not in flags and not names_a_file:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=512".strip()
