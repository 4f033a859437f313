"""The private parts of Keras's functional models that GradES relies on."""

import keras
import numpy as np
import pytest

import keras_grades
from keras_grades.discovery.tree import branching_graph
from keras_grades.keras_internals import graph
from keras_grades.keras_internals.graph import graph_calls
from keras_grades.keras_internals.graph import graph_of


def names(tensors):
    return [tensor.name for tensor in tensors]


def test_calls_come_in_the_order_of_data():
    inputs = keras.Input((3,), name="x")
    shared = keras.layers.Dense(3, name="shared")
    a = shared(inputs)
    b = shared(a)
    total = keras.layers.Add(name="sum")([a, b])
    # Another use, which is not of this model.
    shared(total)
    calls = list(graph_calls(keras.Model(inputs, total)))
    assert [c.operation.name for c in calls] == ["shared", "shared", "sum"]
    assert [names(c.inputs) for c in calls] == [
        names([inputs]),
        names([a]),
        names([a, b]),
    ]
    assert [names(c.outputs) for c in calls] == [
        names([a]),
        names([b]),
        names([total]),
    ]
    assert calls[0].variables == shared.trainable_variables


def test_the_first_argument_comes_first():
    query, value = keras.Input((4, 8)), keras.Input((5, 8))
    attention = keras.layers.MultiHeadAttention(2, 4)
    made = attention(value=value, query=query)
    [call] = graph_calls(keras.Model([query, value], made))
    assert call.inputs[0] is query


def test_inputs_by_name():
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    inner = keras.Model({"a": a, "b": b}, keras.layers.Concatenate()([a, b]))
    x, y = keras.Input((2,)), keras.Input((3,))
    outer = keras.Model([x, y], inner({"b": y, "a": x}))
    [call] = graph_calls(outer)
    assert [t is x for t in call.inputs] == [
        t.name == "a" for t in inner.inputs
    ]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_tied_embedding_uses_one_table(reverse):
    embedding = keras.layers.ReversibleEmbedding(5, 3, tie_weights=False)
    x = keras.Input((4, 3) if reverse else (4,))
    [call] = graph_calls(keras.Model(x, embedding(x, reverse=reverse)))
    [used] = call.variables
    expected = embedding.reverse_embeddings if reverse else embedding.embeddings
    assert used is expected


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_there_is_one_definition_of_a_graph():
    inputs = keras.Input((3,))
    functional = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    sequential = keras.Sequential([keras.layers.Dense(2)])
    assert graph_of(functional) is functional
    assert graph_of(sequential) is None
    sequential.build((None, 3))
    assert [c.operation for c in graph_calls(graph_of(sequential))] == (
        sequential.layers
    )
    assert graph_of(Subclassed()) is None
    assert graph_of(keras.layers.Dense(2)) is None
    # A chain: its order tells as much.
    assert branching_graph(functional) is functional
    assert branching_graph(sequential) is None


def test_a_built_sequential_of_blocks():
    """The blocks in it are found, and what lies below each of them."""

    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = keras.layers.MultiHeadAttention(2, 4)
            self.up = keras.layers.Dense(16, activation="relu")
            self.down = keras.layers.Dense(8)

        def call(self, x):
            x = x + self.attention(x, x)
            return x + self.down(self.up(x))

    from keras_grades.truncation import find_followers

    embedding = keras.layers.Embedding(11, 8)
    model = keras.Sequential(
        [embedding, Block(), Block(), keras.layers.Flatten()]
    )
    model(np.zeros((1, 6), "int32"))
    components = keras_grades.find_components(model)
    blocks = list(dict.fromkeys(c.block for c in components))
    assert len(components) == 12 and len(blocks) == 2
    [below] = [
        f
        for f in find_followers(model, components)
        if any(v is embedding.embeddings for v in f.variables)
    ]
    assert {components[i].block for i in below.components} == {blocks[0]}


def test_private_names_are_there():
    """Each is read by `graph.py`; a new name in Keras must be taken up."""
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(2)
    model = keras.Model(inputs, dense(inputs))
    assert isinstance(model, graph.Functional)
    [[node]] = [
        nodes
        for nodes in model._nodes_by_depth.values()
        if not nodes[0].is_input
    ]
    assert node.operation is dense
    assert names(node.arguments.keras_tensors) == names([inputs])
    assert node.arguments.args[0] is node.arguments.keras_tensors[0]
    assert node.arguments.kwargs == {}


def test_a_constant_among_named_inputs():
    """Then it is not known what goes where."""
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    inner = keras.Model({"a": a, "b": b}, keras.layers.Add()([a, b]))
    x = keras.Input((3,))
    outer = keras.Model(x, inner({"a": x, "b": keras.ops.ones((1, 3))}))
    calls = {type(c.operation): c for c in graph.graph_calls(outer)}
    assert [id(t) for t in calls[type(inner)].inputs] == [id(x)]
