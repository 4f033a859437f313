"""
Title: Resume after an interruption
Author: The keras_grades authors
Date created: 2026/11/28
Last modified: 2026/11/28
Description: Backups, checkpoints, loops of fit(), and Ctrl-C.
Accelerator: None
"""

"""
## Introduction

Machines are taken away, and notebooks are stopped. The state of GradES, what it has
measured and what is frozen, travels with the optimizer's, so that a run that is
resumed freezes the same matrices at the same steps as one that was not interrupted,
if it is given the same batches. This guide shows each way to do it.

Give GradES the same arguments as before, and resume from the end of an epoch: Keras
saves neither the place in an epoch nor the seeds of dropout.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import tempfile

import keras
import keras_hub
from sklearn.datasets import load_digits

import keras_grades

EPOCHS = 12
STOP_AFTER = 4
EXAMPLES = 960

folder = pathlib.Path(tempfile.mkdtemp())
features, labels = load_digits(return_X_y=True)
features = features.reshape(-1, 8, 8).astype("float32")[:EXAMPLES] / 16
labels = labels[:EXAMPLES]


def new_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8))
    x = keras.layers.Dense(32)(inputs)
    x = x + keras_hub.layers.PositionEmbedding(8)(x)
    x = keras_hub.layers.TransformerEncoder(64, 4)(x)
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def fit(model, *callbacks, **arguments):
    arguments = {"epochs": EPOCHS, "verbose": 0, **arguments}
    model.fit(
        features,
        labels,
        32,
        shuffle=False,
        callbacks=list(callbacks),
        **arguments,
    )


def freeze_steps(grades):
    return [component.frozen_at for component in grades.components]


"""
## The run to compare with
"""

whole = keras_grades.GradES()
fit(new_model(), whole)
print(freeze_steps(whole))

"""
In a run as short as this all settles by the plan. The state that travels is the same
in any run: what was measured, the counts, and what is frozen.

## BackupAndRestore

Name it in the list, before GradES or after it. Here something fails in the middle;
then the same script runs again.
"""


class Fails(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == STOP_AFTER:
            raise RuntimeError("The machine is gone.")


def backup():
    return keras.callbacks.BackupAndRestore(folder / "backup")


try:
    fit(new_model(), keras_grades.GradES(), backup(), Fails())
except RuntimeError as error:
    print(error)

resumed = keras_grades.GradES(verbose=1)
fit(new_model(), resumed, backup())
assert freeze_steps(resumed) == freeze_steps(whole)

"""
## A file of the whole model

`ModelCheckpoint` and `model.save()` write what GradES knows beside the model's own
optimizer. The file loads without keras_grades as well, and then everything in it
trains. `import keras_grades` before you load it, and go on where it was:
"""

checkpoint = keras.callbacks.ModelCheckpoint(folder / "epoch_{epoch}.keras")
fit(new_model(), keras_grades.GradES(), checkpoint)

model = keras.saving.load_model(folder / f"epoch_{STOP_AFTER}.keras")
resumed = keras_grades.GradES(verbose=1)
fit(model, resumed, initial_epoch=STOP_AFTER)
assert freeze_steps(resumed) == freeze_steps(whole)

"""
## Weights alone

A `.weights.h5` file has the state of the optimizer, too. The optimizer of a new model
knows nothing of GradES, so load the file when training begins. A `tf.train.Checkpoint`
and a state tree, as `OrbaxCheckpoint` keeps it, are loaded in the same way.
"""

weights = keras.callbacks.ModelCheckpoint(
    folder / "epoch_{epoch}.weights.h5", save_weights_only=True
)
fit(new_model(), keras_grades.GradES(), weights)

model = new_model()
file = folder / f"epoch_{STOP_AFTER}.weights.h5"
load = keras.callbacks.LambdaCallback(
    on_train_begin=lambda logs: model.load_weights(file)
)
resumed = keras_grades.GradES(verbose=1)
fit(model, resumed, load, initial_epoch=STOP_AFTER)
assert freeze_steps(resumed) == freeze_steps(whole)

"""
## A loop of `fit()`

One instance of GradES may serve several calls of `fit()` that go on where the last
one ended. The first call of a loop looks like a run of one epoch, and settles at its
end. From the second call on GradES knows, and what follows is one run, which compiles
once and settles only when nothing is gained any more: nobody can know which call will
be the last. So plan all epochs in one call where you can.
"""

model, grades = new_model(), keras_grades.GradES()
for epoch in range(STOP_AFTER):
    fit(model, grades, epochs=epoch + 1, initial_epoch=epoch)
print("steps since the first call:", grades.report.steps)

"""
## Ctrl-C, and other exceptions

The model has its latest weights. If the exception came in a train step, it has its
own optimizer and its flags back, too. If it came elsewhere, as in a callback, Keras
does not tell of it: they come back with the next `fit()` or `compile()`. To have them
back at once, use GradES as a context manager, or call `callback.restore()`.
"""

model = new_model()
try:
    with keras_grades.GradES() as grades:
        fit(model, grades, Fails())
except RuntimeError:
    print(
        type(model.optimizer).__name__, all(v.trainable for v in model.weights)
    )

"""
## Moving on

A checkpoint that one backend wrote resumes on the others. One of the very last step
takes no further step. State that was saved for other components is refused.
"""
