"""
Title: A monitor of your own
Author: The keras_grades authors
Date created: 2026/11/28
Last modified: 2026/11/29
Description: Measure what you like, in twenty lines, on every backend.
Accelerator: None
"""

"""
## Introduction

A *monitor* measures one number for each component at each step, the *statistic*; a
component has converged when its statistic stays below tau. You can write one. It runs
inside the compiled step, on TensorFlow, JAX and PyTorch, its state is saved and
resumed with the rest, and it appears in the logs and in the report.

We measure how consistent the gradients of a matrix are: the norm of their running
mean, divided by the running mean of their norms. It is near 1 while all batches pull
the same way, and small when only noise is left.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
from keras import ops
from sklearn.datasets import load_digits

import keras_grades

EPOCHS = 20

"""
## The monitor

It has three methods, and `get_config` for saving. `init` declares the state: a `StateSpec` without a shape stands
for one tensor for each variable that is watched, one with a shape for a single
tensor. `before` looks at the gradients, `after` at the weights once they are updated;
it returns the statistic and the new state. All that changes from step to step belongs
to the state, nothing to `self`: the step is compiled.

`gradients` is a list of tuples, a tuple a component: its kernel and bias, or its pair of
LoRA. A tuple is empty when a component has no gradient in this step, or is no longer computed.
"""


@keras.saving.register_keras_serializable()
class Consistency(keras_grades.monitors.Monitor):
    def __init__(self, momentum=0.98):
        self.momentum = momentum

    def init(self, components):
        return {
            "mean": keras_grades.monitors.StateSpec(None),
            "norm": keras_grades.monitors.StateSpec((len(components),)),
        }

    def before(self, state, gradients, variables):
        m = self.momentum
        mean = [
            tuple(m * old + (1 - m) * new for old, new in zip(*pair))
            for pair in zip(state["mean"], gradients)
        ]
        norm = m * state["norm"] + (1 - m) * norms(gradients)
        return {"mean": mean, "norm": norm}

    def after(self, state, carry, variables):
        return norms(carry["mean"]) / (carry["norm"] + 1e-12), carry

    def get_config(self):
        return {"momentum": self.momentum}


def norms(components):
    """The norm of each: a tensor of shape `(n,)`."""
    squares = [
        sum((ops.sum(ops.square(t)) for t in tensors), ops.zeros(()))
        for tensors in components
    ]
    return ops.sqrt(ops.stack(squares))


"""
## Use it

An instance takes the place of the monitor's name, and you may use every other
argument with it; a cooldown lets what has converged come to rest. A tau of its own it
needs, and here theory gives a hint: if gradients were nothing but noise, a running
mean with momentum m would shrink them to `sqrt((1 - m) / (1 + m))`, which is 0.1. A
little above that, next to nothing is left to follow.
"""

features, labels = load_digits(return_X_y=True)
features = features.reshape(-1, 8, 8).astype("float32") / 16

keras.utils.set_random_seed(0)
inputs = keras.Input((8, 8))
x = keras.layers.Dense(32)(inputs)
x = x + keras_hub.layers.PositionEmbedding(8)(x)
for _ in range(2):
    x = keras_hub.layers.TransformerEncoder(64, 4)(x)
outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling1D()(x))
model = keras.Model(inputs, outputs)
model.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

grades = keras_grades.GradES(
    tau=0.13, monitor=Consistency(), alpha=0.1, patience=9, cooldown=0.25
)
history = model.fit(
    features, labels, 32, epochs=EPOCHS, callbacks=[grades], verbose=2
)

"""
`statistic` in the logs is the mean over the components of what `Consistency` returns.
Here is all of it:
"""

grades.report

"""
## Test it

A monitor is a formula, and numpy knows formulas. `callback.trace` has what was
measured at each step: compute the same from gradients that you take yourself, and
compare. `tests/test_monitors.py` does so for one such as this, and
`tests/test_exactness.py` and `tests/test_transfer.py` for those of this library.
"""

trace = grades.trace
print(trace["step"].shape, trace["statistic"].shape)
