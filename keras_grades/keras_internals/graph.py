"""The graph of a functional model, as Keras keeps it."""

import inspect
from typing import NamedTuple

import keras
from keras.src.models.functional import Functional


def graph_of(layer):
    """The functional model that a layer is, or `None`.

    A built `Sequential` is one, too.
    """
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
        if all(isinstance(t, keras.KerasTensor) for t in by_name):
            return by_name
    leading = {id(t) for t in keras.tree.flatten(first)}
    return sorted(
        arguments.keras_tensors, key=lambda tensor: id(tensor) not in leading
    )
