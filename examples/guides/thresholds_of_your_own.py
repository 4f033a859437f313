"""
Title: Towers with thresholds of their own, and the rule of the paper
Author: The keras_grades authors
Date created: 2026/11/28
Last modified: 2026/11/29
Description: Measure first, choose a tau for each tower, and freeze by the paper's rule.
Accelerator: None
"""

"""
## Introduction

The [paper](https://arxiv.org/abs/2509.01842) freezes a matrix when the norm of its
gradient, or of the change of its gradient, is below a threshold tau, after a grace
period. Use this rule to reproduce the paper, or when you want to decide yourself what
may freeze when. It needs a tau, and no tau fits all: its scale depends on the model,
the data and the norm. So measure first.

The model here is an encoder and a decoder that learn to write digits backwards.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np

import keras_grades

EXAMPLES = 2048
LENGTH = 8
BATCH_SIZE = 32
EPOCHS = 6
RATE = 1e-3

"""
## Two towers
"""

rng = np.random.default_rng(0)
digits = rng.integers(1, 11, (EXAMPLES, LENGTH))
backwards = digits[:, ::-1]
START = np.zeros((EXAMPLES, 1), "int64")
so_far = np.concatenate([START, backwards[:, :-1]], axis=1)


def new_model():
    keras.utils.set_random_seed(0)
    source = keras.Input((LENGTH,), dtype="int32", name="source")
    target = keras.Input((LENGTH,), dtype="int32", name="target")
    embed = keras_hub.layers.TokenAndPositionEmbedding(11, LENGTH, 64)
    x, y = embed(source), embed(target)
    for i in range(2):
        x = keras_hub.layers.TransformerEncoder(128, 4, name=f"encoder_{i}")(x)
    for i in range(2):
        y = keras_hub.layers.TransformerDecoder(128, 4, name=f"decoder_{i}")(
            y, x
        )
    model = keras.Model([source, target], keras.layers.Dense(11)(y))
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(grades, epochs=EPOCHS):
    new_model().fit(
        [digits, so_far],
        backwards,
        BATCH_SIZE,
        epochs=epochs,
        callbacks=[grades],
        verbose=2,
    )


"""
## Measure first

A threshold that nothing reaches freezes nothing, but everything is measured. The
paper measures gradients. We measure the change of the weights in a step: Adam takes
the scale of the gradients out, and what remains has one of its own, the learning
rate. An average weight moves by one learning rate a step if all gradients agree, and
by a fraction of that, a fifth or so, if they are noise; by far less once a task is
solved, as here. With `norm="mean_l1"` one tau fits matrices of any size.
"""

MEASURED = {"monitor": "weight_change", "norm": "mean_l1"}

measured = keras_grades.GradES(tau=1e-30, **MEASURED)
train(measured)
measured.report

"""
The trace has a row a step and a column a component. Look at where each tower is in
the last epoch:
"""

statistic = measured.trace["statistic"][-EXAMPLES // BATCH_SIZE :]
towers = {}
for tower in ("encoder", "decoder"):
    columns = [c.name.startswith(tower) for c in measured.components]
    towers[tower] = np.median(statistic[:, columns]) / RATE
    print(f"{tower}: {towers[tower]:.3f} of the learning rate, in the median")

"""
## A threshold for each tower

A dict maps patterns to thresholds; the first that matches a name counts. Which value
is right is your choice: a larger one freezes sooner. Here, a matrix of a tower freezes
when it moves by less than twice the median of that tower in the last epoch, on four
steps in a row, and not before a third of the plan.
"""

tau = {tower: 2 * RATE * median for tower, median in towers.items()}
grades = keras_grades.GradES(tau=tau, alpha=1 / 3, patience=3, **MEASURED)
train(grades)
print(grades.report.summary())

"""
The report shows the towers apart.
"""

grades.report

"""
## The rule of the paper

With a tau and nothing else you get the paper's defaults: the L1 norm of the gradient,
a grace period of half of the plan, no patience. Its second monitor is
`"gradient_change"`. One noisy step below tau freezes for good, so try `patience`,
too. `alpha` should last until the learning rate has warmed up and gradients, which
often grow at first, have begun to fall. Those of queries and keys are a few times
smaller than the others and freeze first, unless a dict gives them a tau of their own.
This tau is far too small for this model, and the last line says so:
"""

papers = keras_grades.GradES(tau=1e-3)
train(papers, epochs=1)
