"""Operations that keep something for later: what they keep of one batch reaches the next ones."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

_WRITES = (
    "Assign",  # AssignVariableOp, AssignAddVariableOp ...
    "LookupTableImport",
    "LookupTableInsert",
    "LookupTableRemove",
    "QueueEnqueue",
    "ResourceApply",
    "ResourceScatter",
    "ResourceSparseApply",
    "ResourceStridedSliceAssign",
)


def writes_in(graph: tf.Graph) -> Iterator[str]:
    """Names of what is written in a graph, and in the functions (branches, loops) that it calls."""
    for operation in graph.get_operations():
        if operation.type.startswith(_WRITES):
            yield operation.inputs[0].name
    for function in graph.as_graph_def().library.function:
        for node in function.node_def:
            if node.op.startswith(_WRITES):
                yield node.input[0]
