"""Trains with a checkpoint an epoch, and goes on from the newest one.

    python killed.py FOLDER [EPOCHS]

Writes `started` when training begins, and `result.npz` at its end; or ends
all of a sudden after so many epochs.
`test_killed.py` kills it in between.
"""

import os
import pathlib
import sys
import time

import keras
import numpy as np
import small

import keras_grades

EPOCHS, BATCHES = 8, 6
# Some freeze in the first epochs, some in the last ones, some never.
TAU = {"block_0.*(query|up)": 1e30, "block_1.*(value|down)": 0.09, "": 1e-30}


class Die(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            os._exit(0)


class Slowly(keras.callbacks.Callback):
    """So that a kill can come in the middle of everything."""

    def __init__(self, started):
        super().__init__()
        self.started = started

    def on_train_batch_begin(self, batch, logs=None):
        self.started.touch()
        time.sleep(0.02)


def load_newest(folder):
    """The newest checkpoint that is whole, and its epoch."""
    for path in sorted(folder.glob("*.keras"), reverse=True):
        try:
            return keras.saving.load_model(path), int(path.stem)
        except Exception as error:
            # Killed while it was written.
            print(f"{path} cannot be loaded: {error}")
    model = small.transformer()
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), small.loss())
    return model, 0


def train(folder, epochs=None):
    model, epoch = load_newest(folder)
    grades = keras_grades.GradES(
        TAU,
        alpha=7,
        monitor="gradient_change",
        norm="l2",
        recompile="always",
        verbose=0,
    )
    x, y = small.data(BATCHES)
    model.fit(
        x,
        y,
        batch_size=4,
        epochs=EPOCHS,
        initial_epoch=epoch,
        shuffle=False,
        verbose=0,
        callbacks=[
            grades,
            keras.callbacks.ModelCheckpoint(folder / "{epoch:03d}.keras"),
            Slowly(folder / "started"),
            Die(epochs),
        ],
    )
    return {
        "frozen_at": [c.frozen_at or 0 for c in grades.components],
        "iterations": int(model.optimizer.iterations),
        **{f"weight_{i}": w for i, w in enumerate(model.get_weights())},
    }


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    result = train(folder, *map(int, sys.argv[2:]))
    np.savez(folder / "unfinished.npz", **result)
    os.replace(folder / "unfinished.npz", folder / "result.npz")
