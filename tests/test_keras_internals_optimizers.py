"""The private parts of Keras's optimizers that GradES relies on."""

import re

import keras
import numpy as np
import pytest
import reference
import small

from keras_grades.keras_internals import optimizers


def built(optimizer):
    model = small.transformer()
    optimizer.build(model.trainable_variables)
    return model, optimizer


def ids(variables):
    return [id(v) for v in variables]


def ones(variables):
    return [keras.ops.ones(v.shape) for v in variables]


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
    narrowed = optimizers.narrow(optimizer, some)
    assert ids(optimizer._trainable_variables) == ids(some)
    if use_ema:
        averages = optimizer._model_variables_moving_average
        assert [a.shape for a in averages] == [v.shape for v in some]
    assert ids(optimizer.variables) == state
    optimizers.widen(optimizer, narrowed)
    assert ids(optimizer._trainable_variables) == everything
    assert ids(optimizer.variables) == state


def test_narrow_multi_optimizer():
    model, optimizer = built(multi(keras.optimizers.Adam()))
    some = model.trainable_variables[3:12]
    narrowed = optimizers.narrow(optimizer, some)
    reference.apply(optimizer, ones(some), some)
    inner = [ids(o._trainable_variables) for o in optimizer.optimizers]
    assert sorted(sum(inner, [])) == sorted(ids(some))
    optimizers.widen(optimizer, narrowed)
    assert len(optimizer._trainable_variables_indices) == len(
        model.trainable_variables
    )


def test_inner_gradients_average_and_unscale():
    model, optimizer = built(
        keras.optimizers.SGD(gradient_accumulation_steps=2)
    )
    variables = model.trainable_variables
    assert not bool(optimizers.is_update_step(optimizer))
    reference.apply(optimizer, ones(variables), variables)
    assert bool(optimizers.is_update_step(optimizer))
    threes = [3 * g for g in ones(variables)]
    for g in optimizers.inner_gradients(optimizer, threes, variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(g), 2.0)
    _, scaled = built(keras.optimizers.SGD(loss_scale_factor=8.0))
    for g in optimizers.inner_gradients(scaled, ones(variables), variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(g), 0.125)


def test_averages_go_with_their_variables():
    model, optimizer = built(keras.optimizers.SGD(use_ema=True))
    some = model.trainable_variables[4:7]
    found = optimizers.averages(optimizer, some)
    assert [i for i, _ in found] == [0, 1, 2]
    for i, average in found:
        average.assign(np.full(some[i].shape, i, "float32"))
    every = optimizer._model_variables_moving_average
    assert [float(np.mean(a.numpy())) for a in every[4:7]] == [0, 1, 2]
    assert optimizers.averages(keras.optimizers.SGD(), some) == []
    assert optimizers.uses_averages(optimizer)


def test_knows_what_it_was_built_for():
    model, optimizer = built(keras.optimizers.SGD())
    other = small.transformer()
    assert optimizers.knows(optimizer, model.trainable_variables[0])
    assert not optimizers.knows(optimizer, other.trainable_variables[0])


def test_new_like_another_variable():
    variable = keras.Variable(np.zeros((2, 3)), dtype="bfloat16")
    new = optimizers.new_like(variable, 2.0, "copy")
    assert new.shape == variable.shape and new.dtype == variable.dtype
    assert not new.trainable and new.name == "copy"
    # A layout is given to the constructor, and kept in this attribute.
    assert variable._layout is None and new._layout is None
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.cast(new, "float32")), 2.0
    )


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


@pytest.mark.parametrize("name", optimizers.FORWARDED)
def test_keras_still_reads_what_is_forwarded(name):
    """Of the optimizer of a model, by `SwapEMAWeights`, or when it saves."""
    import inspect

    from keras.src.callbacks import swap_ema_weights
    from keras.src.optimizers import multi_optimizer

    reads = [swap_ema_weights, multi_optimizer]
    # With a dot before it, or quotes around, but not in an import.
    pattern = rf"(self|optimizer)\.{name}\b|\"{name}\""
    assert any(
        re.search(pattern, inspect.getsource(module)) for module in reads
    )


def test_built_without_state():
    model, optimizer = small.transformer(), keras.optimizers.Adam(use_ema=True)
    variables = model.trainable_variables
    state = ids(optimizer.variables)
    optimizers.build_without_state(optimizer, variables)
    assert optimizer.built
    assert ids(optimizer.variables) == state
    assert all(optimizers.knows(optimizer, v) for v in variables)
    # The base class maps the values of a stateless step to these.
    assert ids(optimizer._trainable_variables) == ids(variables)
    optimizers.set_trainable(optimizer, variables[2:4])
    assert ids(optimizer._trainable_variables) == ids(variables[2:4])


def test_counter():
    """It counts calls, where `iterations` counts updates."""
    model, optimizer = built(
        keras.optimizers.SGD(gradient_accumulation_steps=2)
    )
    variables = model.trainable_variables
    reference.apply(optimizer, ones(variables), variables)
    assert int(optimizers.counter(optimizer)) == 1
    assert int(optimizer.iterations) == 0


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
    assert optimizers.gradients_reach_others(optimizer) == expected


OPTIMIZERS = [
    keras.optimizers.SGD,
    lambda rate: keras.optimizers.SGD(rate, momentum=0.9, weight_decay=0.1),
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.Adagrad,
    keras.optimizers.Adadelta,
    keras.optimizers.RMSprop,
    keras.optimizers.Lion,
    keras.optimizers.Lamb,
    keras.optimizers.Ftrl,
    keras.optimizers.Adafactor,
    keras.optimizers.Muon,
    keras.optimizers.ScheduleFreeAdamW,
    lambda rate: multi(keras.optimizers.AdamW(rate)),
]


def two_layers():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, name="attention"),
            keras.layers.Dense(4, use_bias=False),
        ]
    )
    small.set_weights(model)
    return model


def adafactor_above_its_limit(rate):
    """That is a square root, of two at the second step."""
    del rate
    return keras.optimizers.Adafactor(1.0)


LIMITED = {adafactor_above_its_limit: 0.25 / np.sqrt(2)}


@pytest.mark.parametrize("make", [*OPTIMIZERS, *LIMITED])
def test_a_scaled_learning_rate_is_that_of_a_lower_one(make):
    def trained(rate, share):
        model, optimizer = two_layers(), make(rate)
        variables = model.trainable_variables
        optimizer.build(variables)
        gradients = [0.1 * g for g in ones(variables)]
        reference.apply(optimizer, gradients, variables)
        return model, optimizer, gradients, share

    def step(model, optimizer, gradients, share):
        variables = model.trainable_variables
        if share is not None:
            share = keras.ops.convert_to_tensor(share)
        with optimizers.scaled_learning_rate(optimizer, share):
            reference.apply(optimizer, gradients, variables)
        return small.weights(model)

    rate = 0.01
    scaled = trained(rate, np.float32(0.25))
    lower = trained(rate, None)
    for each in optimizers.inner_optimizers(lower[1]):
        if not hasattr(each, "optimizers"):
            each.learning_rate = LIMITED.get(make, each.learning_rate * 0.25)
    for a, b in zip(step(*scaled), step(*lower)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    # Afterwards the whole rate is used again.
    for each in optimizers.inner_optimizers(scaled[1]):
        assert "_get_current_learning_rate" not in vars(each)
