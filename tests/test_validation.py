"""What Keras has traced beside the train step knows which weights train.

On JAX it hands values to variables in the order of then, so it goes with the
`trainable` flags that were set.
"""

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES

HUGE, TINY = 1e30, 1e-30
# Matrices of the same shape.
STAGES = ("query", "key", "value")


class Traced(keras.Model):
    """Counts how often its test step is traced, or called where it is not."""

    traces = 0

    def test_step(self, *args, **kwargs):
        self.traces += 1
        return super().test_step(*args, **kwargs)


class Losses(keras.callbacks.Callback):
    """The validation loss as Keras has it, and by the weights of then."""

    def __init__(self, x, y):
        super().__init__()
        self.data = x, y
        self.by_keras, self.by_hand = [], []

    def on_epoch_end(self, epoch, logs=None):
        x, y = self.data
        self.by_keras.append(logs["val_loss"])
        self.by_hand.append(float(small.loss()(y, self.model(x))))


def compiled():
    model = small.transformer(blocks=1)
    model = Traced(model.inputs, model.outputs)
    model.compile(keras.optimizers.SGD(0.05), small.loss())
    return model


def fit(model, frozen, epochs=2, first=0, grades=None, **options):
    """Freezes what has a name, structurally, from the second step on."""
    tau = {frozen: HUGE, "": TINY}
    grades = grades or GradES(
        tau, alpha=2, recompile="always", verbose=0, **options
    )
    validation = small.data(2, seed=5)
    losses = Losses(*validation)
    small.fit(
        *(model, grades, losses),
        initial_epoch=first,
        epochs=epochs,
        validation_data=validation,
    )
    frozen = [c.name for c in grades.components if c.frozen_at]
    return losses, frozen, grades


def test_validation_of_one_fit_after_another():
    """In each another matrix of the same shape is out of the train step."""
    model = compiled()
    x, y = small.data(2, seed=5)
    for stage in STAGES:
        losses, frozen, _ = fit(model, stage)
        assert [name.rpartition("/")[2] for name in frozen] == [stage]
        np.testing.assert_allclose(losses.by_keras, losses.by_hand, rtol=1e-5)
        by_hand = float(small.loss()(y, model(x)))
        by_keras = model.evaluate(x, y, verbose=0)
        np.testing.assert_allclose(by_keras, by_hand, rtol=1e-5)
        expected = keras.ops.convert_to_numpy(model(x))
        predicted = model.predict(x, verbose=0)
        np.testing.assert_allclose(predicted, expected, atol=1e-6)


def ten(y, y_pred):
    return 10.0 + 0.0 * keras.ops.sum(y_pred)


@pytest.mark.parametrize("restore_trainable", [True, False])
def test_compile_afterwards_is_heard(restore_trainable):
    """Nothing that was traced before is found again, though it is known."""
    model = compiled()
    x, y = small.data(6)
    model.evaluate(x, y, verbose=0)
    model.fit(x, y, 4, verbose=0)
    *_, grades = fit(model, "query", restore_trainable=restore_trainable)
    model.compile(keras.optimizers.SGD(0.05), ten)
    assert model.evaluate(x, y, verbose=0) == 10
    assert model.fit(x, y, 4, verbose=0).history["loss"] == [10]
    assert grades.report.steps == 12


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="elsewhere flags do not matter"
)
def test_a_loop_of_fit_traces_validation_once_for_each_set_of_flags():
    model, grades = compiled(), None
    traces = []
    for epoch in range(4):
        *_, grades = fit(model, "query", epoch + 1, epoch, grades)
        traces.append(model.traces)
    # The first epoch ends without the query.
    assert traces == [1, 1, 1, 1]
    x, y = small.data(2, seed=5)
    model.evaluate(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert model.traces == 2
