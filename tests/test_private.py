"""The private parts of Keras that `keras_grades.backend.private` relies on."""

import keras
import numpy as np
import pytest
import small

from keras_grades.backend import private


def built(optimizer):
    model = small.transformer()
    optimizer.build(model.trainable_variables)
    return model, optimizer


def ids(variables):
    return [id(v) for v in variables]


def multi(optimizer):
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.SGD(), {".*attention.*": optimizer}
        )
    )


@pytest.mark.parametrize("use_ema", [False, True])
def test_narrow_and_widen(use_ema):
    model, optimizer = built(keras.optimizers.Adam(use_ema=use_ema))
    everything = ids(model.trainable_variables)
    assert ids(optimizer._trainable_variables) == everything
    state = ids(optimizer.variables)
    some = model.trainable_variables[2:9]
    undo = private.narrow(optimizer, some)
    assert ids(optimizer._trainable_variables) == ids(some)
    if use_ema:
        averages = optimizer._model_variables_moving_average
        assert [a.shape for a in averages] == [v.shape for v in some]
    assert ids(optimizer.variables) == state
    private.widen(optimizer, undo)
    assert ids(optimizer._trainable_variables) == everything
    assert ids(optimizer.variables) == state


def test_narrow_multi_optimizer():
    model, optimizer = built(multi(keras.optimizers.Adam()))
    some = model.trainable_variables[3:12]
    undo = private.narrow(optimizer, some)
    grads = [keras.ops.ones(v.shape) for v in some]
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(grads, some)
    else:
        optimizer.apply(grads, some)
    inner = [ids(o._trainable_variables) for o in optimizer.optimizers]
    assert sorted(sum(inner, [])) == sorted(ids(some))
    private.widen(optimizer, undo)
    assert len(optimizer._trainable_variables_indices) == len(
        model.trainable_variables
    )


def test_inner_gradients_average_and_unscale():
    model, optimizer = built(
        keras.optimizers.SGD(gradient_accumulation_steps=2)
    )
    variables = model.trainable_variables
    ones = [keras.ops.ones(v.shape) for v in variables]
    assert not bool(private.is_update_step(optimizer))
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(ones, variables)
    else:
        optimizer.apply(ones, variables)
    assert bool(private.is_update_step(optimizer))
    threes = [3 * g for g in ones]
    for g in private.inner_gradients(optimizer, threes, variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(g), 2.0)
    _, scaled = built(keras.optimizers.SGD(loss_scale_factor=8.0))
    for g in private.inner_gradients(scaled, ones, variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(g), 0.125)


def test_components_are_not_taken_for_optimizer_state():
    import keras_grades

    model = small.transformer()
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(),
        keras_grades.find_components(model),
        tau=1.0,
        alpha=0,
    )
    optimizer.build(model.trainable_variables)
    assert not set(ids(optimizer.variables)) & set(ids(model.variables))


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


class OfTheUser(keras.optimizers.SGD):
    pass


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (keras.optimizers.AdamW(weight_decay=0.1, clipnorm=1.0), False),
        (keras.optimizers.SGD(global_clipnorm=1.0), True),
        (keras.optimizers.SGD(gradient_accumulation_steps=2), True),
        (OfTheUser(), True),
        (multi(keras.optimizers.Adam()), False),
        (multi(keras.optimizers.Adam(global_clipnorm=1.0)), True),
    ],
)
def test_gradients_that_reach_others(optimizer, expected):
    assert private.gradients_reach_others(optimizer) == expected
