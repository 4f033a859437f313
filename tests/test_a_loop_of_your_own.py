"""Structural freezes in a training loop of the user's own."""

import keras
import numpy as np
import pytest
import reference
import small

import keras_grades

STEPS, GRACE = 10, 4
TAU = {"query|value|up": 1e30, "": 1e-30}
# One: a step is compiled for each.
LOSS = small.loss()


def optimizer_for(model, inner):
    optimizer = keras_grades.GradESOptimizer(
        inner(), keras_grades.find_components(model), TAU, alpha=GRACE
    )
    optimizer.build(model.trainable_variables)
    return optimizer


def step(model, optimizer, x, y):
    variables = model.trainable_variables
    gradients = reference.gradients(model, variables, x, y, LOSS)
    if keras.backend.backend() != "jax":
        reference.apply(optimizer, gradients, variables)
        return
    new = optimizer.stateless_apply(
        [v.value for v in optimizer.variables],
        gradients,
        [v.value for v in variables],
    )
    for variable, value in zip(variables + optimizer.variables, sum(new, [])):
        variable.assign(value)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        pytest.param(
            lambda: keras.optimizers.AdamW(0.01, global_clipnorm=0.1),
            marks=pytest.mark.long,
        ),
    ],
    ids=["SGD", "AdamW, clipped"],
)
def test_one_call_freezes_structurally(inner):
    """As a model frozen by hand at that step, bit for bit."""
    model, expected = small.transformer(), small.transformer()
    optimizer = optimizer_for(model, inner)
    batches = small.batches(*small.data(STEPS))
    flips = []
    for x, y in batches:
        step(model, optimizer, x, y)
        if optimizer.freeze_structurally():
            flips.append(int(optimizer.own_iterations))
    assert flips == [GRACE]
    frozen = [c for c in optimizer.components if "query" in c.name]
    assert frozen and not any(v.trainable for v in frozen[0].variables)
    groups = [c.variables for c in keras_grades.find_components(expected)]
    frozen_at, _ = reference.train(
        expected,
        inner(),
        small.loss(),
        batches,
        groups,
        tau=optimizer.rule.tau,
        grace_steps=GRACE,
    )
    np.testing.assert_array_equal(optimizer.frozen_at, frozen_at)
    for value, other in zip(small.weights(model), small.weights(expected)):
        np.testing.assert_array_equal(value, other)
