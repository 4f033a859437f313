"""A two-block Transformer with the same weights on every backend."""

import keras
import numpy as np

WIDTH = 8
LENGTH = 6
CLASSES = 3
# With these some components freeze at other steps than the rest, in training
# on `turning`.
MONITORS = {
    "gradient": {"tau": 1.1, "norm": "l1"},
    "gradient_change": {"tau": 0.013, "norm": "mean_l1"},
    "weight_change": {"tau": 0.009, "norm": "l2"},
    "relative_change": {"tau": 0.98},
    "transfer": {"horizon": 36},
}


def transformer(blocks=2, seed=0, width=WIDTH, hidden=16):
    """Pre-norm Transformer classifier on (batch, LENGTH, width) floats."""
    inputs = keras.Input((LENGTH, width))
    x = inputs
    for i in range(blocks):
        y = keras.layers.LayerNormalization(name=f"block_{i}_norm_1")(x)
        # No bias: the gradient of a key's is zero but for rounding, which
        # Adam would blow up to full steps, other ones on each backend.
        y = keras.layers.MultiHeadAttention(
            2, 4, use_bias=False, name=f"block_{i}_attention"
        )(y, y)
        x = keras.layers.Add(name=f"block_{i}_add_1")([x, y])
        y = keras.layers.LayerNormalization(name=f"block_{i}_norm_2")(x)
        y = keras.layers.Dense(hidden, activation="relu", name=f"block_{i}_up")(
            y
        )
        y = keras.layers.Dense(width, name=f"block_{i}_down")(y)
        x = keras.layers.Add(name=f"block_{i}_add_2")([x, y])
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = keras.layers.Dense(CLASSES, name="head")(x)
    model = keras.Model(inputs, outputs)
    set_weights(model, seed)
    return model


def set_weights(model, seed=0):
    """Draws the weights from numpy, so that all backends start alike."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        value = 0.3 * rng.standard_normal(variable.shape).astype("float32")
        variable.assign(value + ("gamma" in variable.path))


def data(batches, batch_size=4, seed=1, width=WIDTH):
    """Arrays `x`, `y` of so many batches, to be read in order."""
    rng = np.random.default_rng(seed)
    n = batches * batch_size
    x = rng.standard_normal((n, LENGTH, width)).astype("float32")
    y = rng.integers(0, CLASSES, n).astype("int32")
    return x, y


def turning(batches, at, batch_size=4, width=WIDTH):
    """As `data`, but to be learned; from batch `at` on the labels are others.

    What was learned until then helps, and then it does not.
    """
    x, _ = data(batches, batch_size, width=width)
    y = x.mean(axis=1)[:, :CLASSES].argmax(axis=1).astype("int32")
    first = at * batch_size
    return x, np.concatenate([y[:first], (y[first:] + 1) % CLASSES])


def batches(x, y, size=4):
    """The arrays in batches, in order."""
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def weights(model):
    """Copies of a model's weights."""
    return [np.copy(w) for w in model.get_weights()]


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(model, *callbacks, batches=6, **arguments):
    """Trains on so many batches, in order."""
    x, y = data(batches)
    arguments = {"verbose": 0, "shuffle": False, **arguments}
    return model.fit(x, y, 4, callbacks=list(callbacks), **arguments)


class At(keras.callbacks.Callback):
    """Does something before a batch, counted from 0."""

    def __init__(self, batch, do):
        super().__init__()
        self.batch = batch
        self.do = do

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            self.do(self.model)


class SavesFirstEpoch(keras.callbacks.Callback):
    """Saves the model, to be trained on from there."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.model.save(self.path)
