"""The private parts of Keras's layers that GradES relies on."""

import keras
import numpy as np
import small

from keras_grades.keras_internals import layers


class Holder(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(2)
        self.several = [keras.layers.Dense(2), keras.layers.Dense(2)]
        self.named = {"x": keras.layers.Dense(2)}

    def build(self, shape):
        self.table = self.add_weight(shape=(3, 2), name="table")
        self.frozen = self.add_weight(shape=(4,), trainable=False)
        for layer in (self.first, *self.several, *self.named.values()):
            layer.build(shape)
        self.built = True


def test_sublayers_know_their_attributes():
    names = [attribute for attribute, _ in layers.sublayers(Holder())]
    assert names == ["first", "several_0", "several_1", "named_x"]


def test_sublayers_of_a_graph_come_in_the_order_of_data():
    inputs = keras.Input((3,))
    second, first = keras.layers.Dense(3), keras.layers.Dense(3)
    model = keras.Model(inputs, second(first(inputs)))
    held = [layer for _, layer in layers.sublayers(model)]
    assert held[1:] == [first, second]
    assert isinstance(held[0], keras.layers.InputLayer)


def test_own_variables_are_those_that_no_sublayer_has():
    holder = Holder()
    holder.build((None, 5))
    assert layers.own_variables(holder) == [
        ("table", holder.table),
        ("frozen", holder.frozen),
    ]
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    own = [variable for _, variable in layers.own_variables(dense)]
    assert own == [dense.kernel, dense.bias]


def test_raw_kernel():
    """What is stored, where `kernel` is made of it and a LoRA pair."""
    for dense in (
        keras.layers.Dense(4),
        keras.layers.EinsumDense("bi,io->bo", 4),
    ):
        assert layers.raw_kernel(dense) is None
        dense.build((None, 3))
        kernel = dense.kernel
        assert layers.raw_kernel(dense) is kernel
        dense.enable_lora(2)
        assert layers.raw_kernel(dense) is kernel
        assert dense.kernel is not kernel
    convolution = keras.layers.Conv1D(4, 3)
    convolution.build((None, 8, 3))
    assert layers.raw_kernel(convolution) is convolution.kernel


def test_generated_names():
    for layer in (
        keras.layers.MultiHeadAttention(1, 1),
        keras.layers.Conv1D(1, 1),
    ):
        assert layer.name.startswith(layers.generated_name(layer))
    variable = keras.Variable(np.zeros(1))
    assert variable.name.startswith(layers.generated_name(variable))


def test_lists_of_keras_name_nothing():
    """Keras keeps layers and weights in lists of its own, besides."""
    model = small.transformer(blocks=1)
    names = {name for name, _ in layers.sublayers(model)}
    assert names == {""}


def test_build_for_makes_what_fit_would():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Model()
    model.compile(keras.optimizers.Adam(), "mse")
    inputs, targets = keras.KerasTensor((None, 3)), keras.KerasTensor((None, 2))
    layers.build_for(model, (inputs, targets))
    assert model.dense.kernel.shape == (3, 2)
    # Two moments of two weights, the iterations and the rate.
    assert len(model.optimizer.variables) == 2 * 2 + 2
    assert int(model.optimizer.iterations) == 0
