"""Writes the checkpoints that `tests/test_checkpoints.py` goes on from.

Users have such files, so every later version must load them. They were
written on JAX by the code of commit 018938f. What the same runs came to when
nothing interrupted them is in `expected.npz`. To write all of it again:

    git checkout 018938f -- keras_grades
    PYTHONPATH=.:tests KERAS_BACKEND=jax python tests/checkpoints/write.py

`fit()` and `compiled()` are used by the tests, too.
"""

import pathlib

import keras
import numpy as np
import small

from keras_grades import GradES

FOLDER = pathlib.Path(__file__).parent
EXPECTED = FOLDER / "expected.npz"
# A file is of the end of epoch `SAVED`, counted from 1.
BATCHES, EPOCHS, SAVED = 5, 4, 2

# Query and up freeze as soon as that is allowed. Down is below its tau at step
# 10, the last before the file is written, and at step 11, so then it freezes.
# All others are trained to the end.
TAU = {"query|up": 1e30, "down": 4.0, "": 1e-30}

# The arguments of GradES, by the name of the file.
RUNS = {
    # In the file one is frozen, and two have a count of steps below tau.
    "relative_change.weights.h5": {
        "tau": 0.884,
        "alpha": 0,
        "monitor": "relative_change",
        "patience": 3,
    },
    # The file has no last gradients of what is frozen.
    "gradient_change.weights.h5": {
        "tau": {**TAU, "down": 9.0},
        "alpha": 8,
        "monitor": "gradient_change",
        "patience": 1,
        "recompile": "always",
    },
    # In the file two have converged, at step 8, and none is frozen yet.
    "cooldown.weights.h5": {
        "tau": TAU,
        "alpha": 8,
        "monitor": "gradient",
        "patience": 1,
        "cooldown": 8,
    },
    # Loss scaling saves all variables inside it once more, by their number.
    "loss_scaling.weights.h5": {
        "tau": 0.884,
        "alpha": 0,
        "monitor": "relative_change",
        "patience": 3,
    },
    "model.keras": {
        "tau": {**TAU, "down": 0.03},
        "alpha": 8,
        "monitor": "gradient",
        "norm": "mean_l1",
        "patience": 1,
    },
    # Arguments that are retired, with values that were not their defaults.
    # These files are loaded only, so their optimizer is small.
    "thaw.keras": {
        "tau": TAU,
        "alpha": 8,
        "monitor": "gradient",
        "patience": 1,
        "thaw": True,
    },
    "interval.keras": {
        "tau": TAU,
        "alpha": 8,
        "monitor": "gradient",
        "interval": 2,
    },
}


def compiled(name, seed=0):
    """The model of a run, before it is trained."""
    model = small.transformer(blocks=1, seed=seed)
    rate = keras.optimizers.schedules.CosineDecay(0.02, 40)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1)
    if name in ("thaw.keras", "interval.keras"):
        optimizer = keras.optimizers.SGD(0.02)
    elif name == "loss_scaling.weights.h5":
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=64.0, dynamic_growth_steps=3
        )
    model.compile(optimizer, small.loss())
    return model


def fit(model, *callbacks, **arguments):
    x, y = small.data(BATCHES)
    model.fit(
        x,
        y,
        batch_size=4,
        epochs=EPOCHS,
        shuffle=False,
        callbacks=list(callbacks),
        verbose=0,
        **arguments,
    )


def write(name):
    """Writes the file; returns arrays by name, of then and of the end."""
    arrays = {}

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch + 1 != SAVED:
                return
            if name.endswith(".weights.h5"):
                self.model.save_weights(FOLDER / name)
            else:
                self.model.save(FOLDER / name)
            arrays.update(freeze_state(self.model))

    model, callback = compiled(name), GradES(**RUNS[name], verbose=0)
    fit(model, callback, Save())
    stopped_step = callback.stopped_step
    arrays["stopped_step"] = 0 if stopped_step is None else stopped_step
    arrays["frozen_at_the_end"] = [
        c.frozen_at or 0 for c in callback.components
    ]
    arrays["statistic"] = callback.trace["statistic"][SAVED * BATCHES :]
    arrays["weights"] = np.concatenate(
        [np.ravel(w) for w in model.get_weights()]
    )
    return arrays


def freeze_state(model):
    """What was decided so far, for a model in training."""
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    names = ("below", "converged_at", "frozen_at")
    return {
        v.name: np.copy(keras.ops.convert_to_numpy(v))
        for v in optimizer.variables
        if v.name in names
    }


def main():
    expected = {
        f"{name}/{what}": array
        for name in RUNS
        for what, array in write(name).items()
    }
    np.savez_compressed(EXPECTED, **expected)


if __name__ == "__main__":
    main()
