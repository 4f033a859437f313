"""What Keras keeps private and GradES cannot do without.

`tests/test_private.py` fails when Keras changes any of it.
"""

import inspect
import math
from typing import NamedTuple

import keras
from keras.src.models.functional import Functional
from keras.src.ops.function import make_node_key
from keras.src.utils.naming import to_snake_case

__all__ = [
    "embedding_variable_ids",
    "graph_calls",
    "graph_of",
    "graph_sources",
    "matrix_parameters",
    "own_variables",
    "sublayers",
    "to_snake_case",
]


def sublayers(layer):
    """The layers that a layer holds, each after the attribute that holds it.

    In the order of the data where the layer is a graph, else as created.
    """
    held = {id(sublayer): sublayer for sublayer in layer._layers}
    if isinstance(layer, keras.Model):
        in_order = [s for s in layer.layers if id(s) in held]
        held = {id(s): s for s in in_order} | held
    return _after_attributes(layer, held.values())


def own_variables(layer):
    """The variables that a layer holds, each after its attribute."""
    return _after_attributes(
        layer, layer._trainable_variables + layer._non_trainable_variables
    )


# Where Keras, and TensorFlow's tracking, list once more what a layer holds.
_LISTS = (
    "_layers",
    "_non_trainable_variables",
    "_operations",
    "_self_",
    "_tracked",
    "_trainable_variables",
)


def _after_attributes(layer, held):
    """Pairs each of what a layer holds with its attribute, or ""."""
    if not held:
        return []
    attributes = dict(vars(layer))
    # PyTorch keeps layers in a place of its own.
    attributes |= attributes.pop("_modules", {})
    names = {}
    # What an attribute holds by itself is named so, even if some list holds
    # it too: which comes first depends on the backend.
    for name, value in sorted(
        attributes.items(), key=lambda a: isinstance(a[1], (dict, list, tuple))
    ):
        if not name.startswith(_LISTS):
            for path, item in _flatten(name.lstrip("_"), value):
                names.setdefault(id(item), path)
    return [(names.get(id(item), ""), item) for item in held]


def _flatten(name, value):
    """Yields names and items of an attribute, also of nested containers."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _flatten(f"{name}_{key}", item)


def embedding_variable_ids(model):
    """The ids of all variables that are looked up in an embedding."""
    return {
        id(v)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
        for v in layer.variables
    }


def matrix_parameters(model):
    """The number of parameters in what a step multiplies with."""
    looked_up = embedding_variable_ids(model)
    return sum(
        math.prod(v.shape)
        for v in model.variables
        if len(v.shape) > 1 and id(v) not in looked_up
    )


def graph_sources(model):
    """Of a functional model, the operations that feed each operation."""
    return {
        operation: [
            parent.operation
            for i, node in enumerate(operation._inbound_nodes)
            if make_node_key(operation, i) in model._nodes
            for parent in node.parent_nodes
        ]
        for operation in model.operations
    }


def graph_of(layer):
    """The functional model that a layer is, or None."""
    if isinstance(layer, keras.Sequential):
        return layer._functional
    return layer if isinstance(layer, Functional) else None


class GraphCall(NamedTuple):
    """One use of an operation in a functional model.

    Attributes:
        operation: The operation, a layer or not.
        variables: List of `keras.Variable`, the trainable ones that it uses.
        inputs: List of the tensors that it takes, the first argument first.
        outputs: List of the tensors that it makes.
    """

    operation: keras.Operation
    variables: list
    inputs: list
    outputs: list


def graph_calls(graph):
    """Yields a functional model's `GraphCall`s, in the order of data."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                yield GraphCall(
                    node.operation,
                    _used_variables(node),
                    _received(node),
                    node.outputs,
                )


def _used_variables(node):
    layer = node.operation
    if not isinstance(layer, keras.layers.ReversibleEmbedding):
        return list(getattr(layer, "trainable_variables", []))
    embeddings = layer.embeddings
    if node.arguments.kwargs.get("reverse") and not layer.tie_weights:
        embeddings = layer.reverse_embeddings
    return [v for v in layer.trainable_variables if v is embeddings]


def _received(node):
    arguments, operation = node.arguments, node.operation
    names = list(inspect.signature(operation.call).parameters)
    given = dict(zip(names, arguments.args)) | arguments.kwargs
    first = given.get(names[0]) if names else None
    inner = graph_of(operation)
    if inner is not None and isinstance(first, dict):
        # Each goes to the input of its name, whatever the order.
        by_name = [first.get(t.name) for t in inner.inputs]
        if None not in by_name:
            return by_name
    leading = {id(t) for t in keras.tree.flatten(first)}
    return sorted(
        arguments.keras_tensors, key=lambda tensor: id(tensor) not in leading
    )
