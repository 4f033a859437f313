"""`MultiWorkerMirroredStrategy` on TensorFlow: two processes, in a loop.

`test_devices.py` runs it in both of them, with `PROCESS` 0 and 1, and a
`PORT` for the first. Keras cannot `fit()` under this strategy.
"""

import contextlib
import json
import os

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

import keras_grades

PROCESS, PORT = int(os.environ["PROCESS"]), int(os.environ["PORT"])
WORKERS = [f"localhost:{PORT}", f"localhost:{PORT + 1}"]
BATCH, STEPS = 8, 40


@pytest.fixture(scope="session")
def strategy():
    """Made before there is anything else."""
    task = {"type": "worker", "index": PROCESS}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": WORKERS}, "task": task}
    )
    return tf.distribute.MultiWorkerMirroredStrategy()


def train(scope, run, mine):
    """Steps of freezing, and weights."""
    with scope():
        model = small.transformer(blocks=1)
        optimizer = keras_grades.GradESOptimizer(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras_grades.find_components(model),
            1.1,
            alpha=5,
            norm="l1",
        )
        optimizer.build(model.trainable_variables)
    loss = small.loss()

    def step_of(x, y):
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        optimizer.apply(tape.gradient(value, variables), variables)

    def traced():
        return tf.function(lambda *data: run(step_of, data))

    step = traced()
    x, y = small.turning(STEPS, 80, BATCH)
    for data in small.batches(x[mine], y[mine], mine.sum() // STEPS):
        step(*data)
        if optimizer.freeze_structurally():
            step = traced()
    return optimizer.frozen_at.numpy(), small.weights(model)


def test_decisions_of_one_device(strategy):
    whole = np.ones(STEPS * BATCH, bool)
    expected_at, expected = train(
        contextlib.nullcontext, lambda step, data: step(*data), whole
    )
    mine = np.arange(STEPS * BATCH) % BATCH // (BATCH // 2) == PROCESS
    frozen_at, weights = train(strategy.scope, strategy.run, mine)
    np.testing.assert_array_equal(frozen_at, expected_at)
    assert len({*frozen_at}) > 2
    for value, other in zip(weights, expected):
        np.testing.assert_allclose(value, other, atol=1e-6)


def test_fit_is_not_for_it(strategy):
    """Keras itself fails; should it train, GradES would, too."""
    with strategy.scope():
        model = small.transformer(blocks=1)
        model.compile("sgd", small.loss())
    data = tf.data.Dataset.from_tensor_slices(small.data(4)).batch(BATCH)
    with pytest.raises(ValueError, match="PerReplica"):
        model.fit(data, verbose=0)
