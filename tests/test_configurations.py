"""Every configuration of `configurations.py`, against a plain loop."""

import functools
import re

import configurations
import keras
import numpy as np
import pytest
import reference
import small

import keras_grades
from keras_grades.outlook import Outlook
from keras_grades.policy import FreezePolicy

GRACE = 4
# How what has converged is frozen.
WAYS = {
    "always": {"recompile": "always"},
    "never": {"recompile": "never"},
    "cooldown": {"recompile": "always", "cooldown": 1},
}
# Half of the components freeze when the grace period ends, the others never,
# so that what is compared does not hang on the last bit of a statistic.
FREEZING = r"query|attention_output|up"
TAU = {FREEZING: 1e30, "": 1e-30}
# A sample of each kind; `make test-all` runs the others, both ways.
SAMPLE = (
    "MultiOptimizer",
    "use_ema, overwriting every 3 steps",
    "gradient_accumulation_steps",
    "steps_per_execution",
    "endless generator",
    "ModelCheckpoint",
    "EarlyStopping",
    "SwapEMAWeights inside loss scaling",
    "BatchNormalization, Dropout",
)


def cases():
    for i, configuration in enumerate(configurations.ALL):
        for j, way in enumerate(WAYS):
            is_sampled = configuration.name in SAMPLE and j == i % len(WAYS)
            marks = () if is_sampled else pytest.mark.long
            yield pytest.param(
                configuration, way, marks=marks, id=f"{configuration}-{way}"
            )


@pytest.fixture(autouse=True)
def _dynamo_without_inductor(monkeypatch):
    """On PyTorch the graphs are traced, but run as they are.

    To compile them takes minutes, and makes no other decisions.
    """
    if keras.backend.backend() == "torch":
        import torch

        compile_eagerly = functools.partial(torch.compile, backend="eager")
        monkeypatch.setattr(torch, "compile", compile_eagerly)


@pytest.mark.alike
@pytest.mark.parametrize(("configuration", "way"), cases())
def test_same_as_a_plain_loop(configuration, way, tmp_path):
    backend = keras.backend.backend()
    if backend in configuration.unsupported:
        pytest.skip(configuration.unsupported[backend])
    if way == "cooldown" and re.search(
        "EMA|ema|constraint", configuration.name
    ):
        with pytest.raises(ValueError, match="`cooldown` takes back"):
            run_fit(configuration, WAYS[way], tmp_path)
        return
    frozen_at, trace, expected = run_reference(
        configuration, WAYS[way].get("cooldown", 0)
    )
    assert 0 < np.count_nonzero(frozen_at) < len(frozen_at)
    grades, actual = run_fit(configuration, WAYS[way], tmp_path)
    assert [c.frozen_at or 0 for c in grades.components] == frozen_at
    np.testing.assert_allclose(
        grades.trace["statistic"], trace, rtol=1e-3, atol=1e-6
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=configuration.tolerance)


def data(configuration):
    return small.data(configurations.STEPS // configuration.epochs)


def run_reference(configuration, cooldown):
    """Freeze steps, statistics and final weights of the plain loop."""
    model = configuration.model()
    components = keras_grades.find_components(model)
    make = configuration.plain_optimizer or configuration.optimizer
    optimizer = make()
    x, y = data(configuration)
    batches = small.batches(x, y, configurations.BATCH)
    if configuration.weights is not None:
        weights = configuration.weights(y)
        weights = small.batches(weights, y, configurations.BATCH)
        batches = [(*batch, w) for batch, (w, _) in zip(batches, weights)]
    batches = batches * (configuration.ends_after or configuration.epochs)
    policy = FreezePolicy(tau=TAU, alpha=0)
    tau = policy.resolve(components, Outlook(None)).tau
    trainable = list(model.trainable_variables)
    frozen_at, trace = reference.train(
        model,
        optimizer,
        configuration.loss(),
        batches,
        [c.variables for c in components],
        tau=tau,
        grace_steps=GRACE,
        cooldown=cooldown,
        **configuration.reference,
    )
    frozen = [v for v in trainable if not v.trainable]
    values = [np.copy(keras.ops.convert_to_numpy(v)) for v in frozen]
    optimizer.finalize_variable_values(trainable)
    for variable, value in zip(frozen, values):
        variable.assign(value)
    return frozen_at, trace, small.weights(model)


def run_fit(configuration, way, folder):
    model = configuration.model()
    model.compile(
        **{
            "optimizer": configuration.optimizer(),
            "loss": small.loss(),
            **configuration.compile,
        }
    )
    grades = keras_grades.GradES(TAU, alpha=GRACE, verbose=0, **way)
    others = configuration.callbacks(folder)
    # First or last, in turns.
    callbacks = (
        [grades, *others] if way["recompile"] == "always" else [*others, grades]
    )
    x, y = data(configuration)
    history = model.fit(
        **configuration.fit(x, y),
        epochs=configuration.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    ended = configuration.ends_after or configuration.epochs
    assert len(history.epoch) == ended
    return grades, small.weights(model)
