"""The private parts of Keras that `keras_grades.backend.private` relies on."""

import keras

from keras_grades.backend import private


def test_graph_sources():
    inputs = keras.Input((3,))
    a = keras.layers.Dense(3, name="a")(inputs)
    b = keras.layers.Dense(3, name="b")(a)
    model = keras.Model(inputs, keras.layers.Add(name="sum")([a, b]))
    sources = {
        operation.name: [source.name for source in above]
        for operation, above in private.graph_sources(model).items()
    }
    assert sources["b"] == ["a"]
    assert sorted(sources["sum"]) == ["a", "b"]


def test_sublayers_know_their_attributes():
    class Holder(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(2)
            self.several = [keras.layers.Dense(2), keras.layers.Dense(2)]
            self.named = {"x": keras.layers.Dense(2)}

    names = [attribute for attribute, _ in private.sublayers(Holder())]
    assert names == ["first", "several_0", "several_1", "named_x"]


def test_generated_names():
    layer = keras.layers.MultiHeadAttention(1, 1)
    generated = private.to_snake_case(type(layer).__name__)
    assert layer.name.startswith(generated)
