"""Transformers written as one functional graph, without a layer a block.

There the edges of the graph tell what belongs together: a feed-forward
network runs from one residual sum to the next.
"""

import keras

from keras_grades.backend import private
from keras_grades.discovery.feed_forward import network


def graph_feed_forward_roles(node, matrices):
    """Feed-forward networks among the matrices of a functional model.

    Args:
        node: `Node` of a functional model.
        matrices: List of its `Matrix` that are no attention.

    Returns:
        List of lists, one a network, of pairs of `Matrix` and role.
    """
    matrix_of = {id(m.node.layer): m for m in matrices}
    sources = private.graph_sources(node.layer)
    networks, used = [], set()
    for operation in sources:
        if type(operation).__name__ != "Add":
            continue
        for down in _nearest(operation, sources, matrix_of):
            ups = _nearest(down.node.layer, sources, matrix_of)
            fits = ups and all(
                up.width_in == down.width_out
                and up.width_out in (down.width_in, 2 * down.width_in)
                for up in ups
            )
            if fits and id(down) not in used:
                networks.append(network(ups[:2], down))
                used.update(id(m) for m in [*ups, down])
    return networks


def _nearest(operation, sources, matrix_of):
    """The matrices that reach an operation through nothing with weights."""
    found, stack, seen = [], list(sources[operation]), set()
    while stack:
        source = stack.pop(0)
        if id(source) in seen:
            continue
        seen.add(id(source))
        if id(source) in matrix_of:
            found.append(matrix_of[id(source)])
        elif not _is_boundary(source):
            stack.extend(sources.get(source, ()))
    return found


def _is_boundary(operation):
    # `variables` would count the seed of a `Dropout`.
    has_weights = isinstance(operation, keras.Layer) and operation.weights
    return bool(has_weights) or type(operation).__name__ == "Add"
