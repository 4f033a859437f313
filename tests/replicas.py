"""Trains under strategies of `tf.distribute`, on CPUs made of one.

    python replicas.py

`test_devices.py` runs it: devices are made before there is anything else.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import contextlib

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

import keras_grades

DEVICES = ("CPU:0", "CPU:1")


def make_devices():
    (cpu,) = tf.config.list_physical_devices("CPU")
    each = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [each for _ in DEVICES])


def optimizer_for(model):
    return keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.1),
        keras_grades.find_components(model),
        1e30,
        alpha=2,
    )


def fit(model, **arguments):
    x, y = small.data(4)
    model.fit(x, y, batch_size=4, verbose=0, **arguments)


def check_several_are_refused(strategy, replicas):
    """Wherever the optimizer is built; and nothing is left on the model."""
    with strategy.scope():
        model = small.transformer(blocks=1)
    refused = pytest.raises(
        ValueError,
        match=f"{type(strategy).__name__} with {replicas} replicas",
    )
    for place in (strategy.scope, contextlib.nullcontext):
        with place(), refused:
            optimizer_for(model).build(model.trainable_variables)
    with strategy.scope():
        model.compile(optimizer_for(model), small.loss())
        with refused:
            fit(model)
        model.compile("sgd", small.loss())
    with refused:
        fit(model, callbacks=[keras_grades.GradES(verbose=0)])
    assert type(model.optimizer) is keras.optimizers.SGD


def check_one_is_as_none(strategy):
    results = []
    for place in (strategy.scope, contextlib.nullcontext):
        with place():
            model = small.transformer(blocks=1)
            model.compile(keras.optimizers.SGD(0.1), small.loss())
        grades = keras_grades.GradES(
            {"query": 1e30, "up": 0.1, "": 1e-30}, alpha=2, verbose=0
        )
        fit(model, shuffle=False, callbacks=[grades])
        frozen_at = [c.frozen_at for c in grades.components]
        results.append((frozen_at, small.weights(model)))
    (frozen_at, weights), (expected, expected_weights) = results
    assert frozen_at == expected and {2, None} <= {*expected}
    for value, expected in zip(weights, expected_weights):
        np.testing.assert_allclose(value, expected, atol=1e-6)


if __name__ == "__main__":
    make_devices()
    check_several_are_refused(tf.distribute.MirroredStrategy(DEVICES), 2)
    check_one_is_as_none(tf.distribute.MirroredStrategy(DEVICES[:1]))
    check_one_is_as_none(tf.distribute.OneDeviceStrategy(DEVICES[1]))
