"""`tf.distribute` on TensorFlow: two replicas, the decisions of one device.

`test_devices.py` runs it, in a process of its own: devices are made before
there is anything else.
"""

import contextlib
import importlib
import pathlib
import sys

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades import find_components

BENCHMARKS = pathlib.Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

DEVICES = ("CPU:0", "CPU:1")
BATCH, STEPS, GRACE = 8, 40, 5
HUGE, TINY = 1e30, 1e-30
TAU = {"query|value|up": HUGE, "": TINY}
OPTIMIZERS = keras.optimizers
long = pytest.mark.long

devices = importlib.import_module("devices_tensorflow")
devices.make(len(DEVICES))
MIRRORED = tf.distribute.MirroredStrategy(DEVICES)
one_device = contextlib.nullcontext


def sgd(**arguments):
    return OPTIMIZERS.SGD(0.01, momentum=0.9, **arguments)


def several():
    """Adam for the biases."""
    rest, of_biases = sgd(), OPTIMIZERS.Adam(0.001)
    return OPTIMIZERS.MultiOptimizer(
        lambda v: of_biases if "bias" in v.path else rest
    )


def build(scope, optimizer=sgd, **arguments):
    with scope():
        model = small.transformer(blocks=1)
        model.compile(optimizer(), small.loss(), **arguments)
    return model


def fit(model, *callbacks, steps=STEPS, **arguments):
    x, y = small.turning(steps, 80, BATCH)
    arguments = {"verbose": 0, "shuffle": False, **arguments}
    return model.fit(x, y, BATCH, callbacks=[*callbacks], **arguments)


def frozen_at(grades):
    return [c.frozen_at for c in grades.components]


def check_equal(variables):
    """What each replica has is the same, bit for bit."""
    for variable in variables:
        first, second = MIRRORED.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())


class Looks(keras.callbacks.Callback):
    """At all state, while it is there."""

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        state = getattr(optimizer, "state", None) or inner.state
        assert {"trace", "frozen_at"} <= {*state}
        check_equal([*state.values(), *optimizer.variables])
        assert logs["frozen_ratio"] > 0


@pytest.mark.parametrize(
    ("monitor", "recompile", "optimizer"),
    [
        ("gradient", 3, sgd),
        pytest.param("relative_change", "never", sgd, marks=long),
        pytest.param("gradient", "always", sgd, marks=long),
        pytest.param("gradient_change", "never", sgd, marks=long),
        pytest.param("weight_change", "never", sgd, marks=long),
        pytest.param(
            "gradient",
            "always",
            lambda: OPTIMIZERS.LossScaleOptimizer(sgd()),
            marks=long,
        ),
        pytest.param(
            "gradient", "always", lambda: sgd(use_ema=True), marks=long
        ),
        pytest.param(
            "relative_change",
            "always",
            lambda: OPTIMIZERS.AdamW(0.002, weight_decay=0.1),
            marks=long,
        ),
        pytest.param("gradient", "always", several, marks=long),
    ],
)
def test_decisions_of_one_device(monitor, recompile, optimizer):
    found = []
    for scope in (one_device, MIRRORED.scope):
        model = build(scope, optimizer)
        grades = GradES(
            monitor=monitor,
            alpha=GRACE,
            recompile=recompile,
            verbose=0,
            **small.MONITORS[monitor],
        )
        callbacks = [Looks()] if scope is not one_device else []
        fit(model, grades, *callbacks)
        statistic = grades.trace["statistic"]
        found.append((frozen_at(grades), statistic, small.weights(model)))
    (expected_at, expected_statistic, expected), (at, statistic, weights) = (
        found
    )
    assert at == expected_at
    assert any(GRACE < (step or 0) < STEPS for step in at)
    np.testing.assert_allclose(statistic, expected_statistic, 1e-3, 1e-5)
    for value, other in zip(weights, expected):
        np.testing.assert_allclose(value, other, atol=1e-5)
    check_equal(model.variables)


def settle_alike(scope):
    grades = GradES(horizon=36, verbose=0)
    model = build(scope, lambda: OPTIMIZERS.SGD(0.03, momentum=0.9))
    fit(model, grades, steps=200)
    return frozen_at(grades), grades.report, small.weights(model)


@long
def test_the_default_settles_alike():
    """What was learned no longer helps from step 80 on."""
    expected_at, _, expected = settle_alike(one_device)
    found_at, report, weights = settle_alike(MIRRORED.scope)
    assert found_at == expected_at
    assert report.stopped_step < 160
    for value, other in zip(weights, expected):
        np.testing.assert_allclose(value, other, atol=1e-5)


@pytest.mark.parametrize(
    "clip",
    [
        "global_clipnorm",
        pytest.param("clipnorm", marks=long),
        pytest.param("clipvalue", marks=long),
    ],
)
def test_clipping_is_that_of_each_replica(clip):
    """As in Keras: each clips its own gradients, before they are added up."""
    first, rest = 2, 4
    model = build(MIRRORED.scope, lambda: sgd(**{clip: 0.01}))
    grades = GradES(TAU, alpha=first, recompile="never", verbose=0)
    fit(model, grades, steps=first + rest)
    assert set(frozen_at(grades)) == {first, None}
    check_equal(model.variables)

    expected = build(MIRRORED.scope, lambda: sgd(**{clip: 0.01}))
    x, y = small.turning(first + rest, 80, BATCH)
    seen = first * BATCH
    arguments = {"verbose": 0, "shuffle": False, "batch_size": BATCH}
    expected.fit(x[:seen], y[:seen], **arguments)
    frozen = {c.name for c in grades.components if c.frozen_at}
    for component in find_components(expected):
        for variable in component.variables:
            variable.trainable = component.name not in frozen
    expected.make_train_function(force=True)
    expected.fit(x[seen:], y[seen:], **arguments)
    for value, other in zip(small.weights(model), small.weights(expected)):
        np.testing.assert_array_equal(value, other)


def test_gradients_are_sent_once():
    """Also with GradES; and those of what is frozen not at all."""
    model = build(MIRRORED.scope)
    trained = sum(4 * np.prod(v.shape) for v in model.trainable_variables)
    with devices.counted() as plain:
        fit(model, steps=4)
    assert plain == [trained]
    with devices.counted() as sent:
        fit(build(MIRRORED.scope), GradES(horizon=36, verbose=0), steps=4)
    assert sent == plain
    grades = GradES(TAU, alpha=2, recompile="always", verbose=0)
    with devices.counted() as sent:
        fit(build(MIRRORED.scope), grades, steps=4)
    frozen = [c for c in grades.components if c.frozen_at]
    assert len(frozen) == 3
    assert sent == [trained, trained - sum(4 * c.size for c in frozen)]


@long
def test_a_loop_of_your_own():
    """The optimizer by itself, and structural freezes with one call."""
    results = []
    for calls in (False, True):
        with MIRRORED.scope():
            model = small.transformer(blocks=1)
            optimizer = GradESOptimizer(
                sgd(), find_components(model), TAU, alpha=STEPS // 8
            )
            optimizer.build(model.trainable_variables)
        loss = small.loss()

        def step_of(x, y, model=model, optimizer=optimizer, loss=loss):
            variables = model.trainable_variables
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            optimizer.apply(tape.gradient(value, variables), variables)

        def traced(step_of=step_of):
            return tf.function(lambda *pair: MIRRORED.run(step_of, pair))

        step, traces = traced(), 1
        x, y = small.turning(STEPS // 4, 80, BATCH)
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
        for data in MIRRORED.experimental_distribute_dataset(dataset):
            step(*data)
            if calls and optimizer.freeze_structurally():
                step, traces = traced(), traces + 1
        assert traces == 1 + calls
        check_equal([*model.variables, *optimizer.variables])
        assert set(optimizer.frozen_at.numpy()) == {0, STEPS // 8}
        results.append(small.weights(model))
    for value, other in zip(*results):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize(
    "strategy",
    [
        tf.distribute.MirroredStrategy(DEVICES[:1]),
        pytest.param(tf.distribute.OneDeviceStrategy(DEVICES[1]), marks=long),
    ],
)
def test_one_replica_is_as_none(strategy):
    found = []
    for scope in (one_device, strategy.scope):
        model = build(scope)
        grades = GradES(1.1, alpha=GRACE, norm="l1", verbose=0)
        fit(model, grades)
        found.append((frozen_at(grades), small.weights(model)))
    (expected_at, expected), (at, weights) = found
    assert at == expected_at and any(at)
    for value, other in zip(weights, expected):
        np.testing.assert_allclose(value, other, atol=1e-6)


def test_a_checkpoint_goes_on_on_one_device(tmp_path):
    path = tmp_path / "first_epoch.keras"

    def train(model, *callbacks, **arguments):
        grades = GradES(
            {"query|down": HUGE, "": TINY},
            alpha=2,
            monitor="gradient_change",
            verbose=0,
        )
        fit(model, grades, *callbacks, steps=4, epochs=2, **arguments)
        statistic = grades.trace["statistic"][-4:]
        return frozen_at(grades), statistic, small.weights(model)

    expected_at, expected_statistic, expected = train(
        build(MIRRORED.scope), small.SavesFirstEpoch(path)
    )
    at, statistic, weights = train(
        keras.saving.load_model(path), initial_epoch=1
    )
    assert at == expected_at == [2, None, None, None, None, 2]
    np.testing.assert_allclose(statistic, expected_statistic, rtol=1e-3)
    for value, other in zip(weights, expected):
        np.testing.assert_allclose(value, other, atol=1e-5)


def optimizer_for(model, inner=sgd):
    return GradESOptimizer(inner(), find_components(model), HUGE, alpha=2)


def test_where_the_optimizer_is_made():
    """Keras cannot mix them either."""
    model = build(MIRRORED.scope)
    refused = pytest.raises(ValueError, match="inside `strategy.scope\\(\\)`")
    optimizer, inner = optimizer_for(model), sgd()
    for place in (one_device, MIRRORED.scope):
        with place(), refused:
            optimizer.build(model.trainable_variables)
    with MIRRORED.scope(), refused:
        optimizer_for(model, lambda: inner).build(model.trainable_variables)


@pytest.mark.parametrize(
    "arguments",
    [
        {"gradient_accumulation_steps": 2},
        {"use_ema": True, "ema_overwrite_frequency": 2},
    ],
)
def test_what_keras_cannot_do(arguments):
    """Nothing is left on the model. Else it would end in a trace of calls."""
    model = build(MIRRORED.scope, lambda: sgd(**arguments))
    with pytest.raises(ValueError, match="^Keras cannot train several"):
        fit(model, GradES(HUGE, alpha=2, verbose=0))
    assert type(model.optimizer) is OPTIMIZERS.SGD
    with pytest.raises(RuntimeError, match="merge_call"):
        fit(build(MIRRORED.scope, lambda: sgd(**arguments)))


def test_steps_per_execution():
    model = build(MIRRORED.scope, steps_per_execution=2)
    with pytest.raises(ValueError, match="^Keras cannot take several steps"):
        fit(model, GradES(HUGE, alpha=2, verbose=0))
    with pytest.raises(tf.errors.InvalidArgumentError):
        fit(build(MIRRORED.scope, steps_per_execution=2))


def test_other_strategies():
    strategy = tf.distribute.experimental.CentralStorageStrategy([*DEVICES])
    model = build(strategy.scope)
    refused = pytest.raises(
        ValueError, match="Received: CentralStorage.* with 2 replicas"
    )
    with strategy.scope(), refused:
        optimizer_for(model).build(model.trainable_variables)
    with refused:
        fit(model, GradES(HUGE, alpha=2, verbose=0))
    assert type(model.optimizer) is OPTIMIZERS.SGD
