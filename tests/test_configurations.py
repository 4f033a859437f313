"""Every configuration of `configurations.py`, against a plain loop."""

import contextlib
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
# Half of the components freeze when the grace period ends, the others never,
# so that what is compared does not hang on the last bit of a statistic.
FREEZING = r"query|attention_output|up"
TAU = {FREEZING: 1e30, "": 1e-30}
OF_TAU = {"tau": TAU, "alpha": GRACE}
WAYS = {
    "always": {"recompile": "always", **OF_TAU},
    "never": {"recompile": "never", **OF_TAU},
    "cooldown": {"recompile": "always", "cooldown": 1, **OF_TAU},
    "default": {},
}
# With so many updates planned all settle from this one on. Then the rate falls
# over a quarter as many, which are the last.
SETTLES_AT = {10: 8, 5: 4}
# Keras does not know how long these are, so neither does a plan.
OF_UNKNOWN_LENGTH = ("grain",)
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
    if way == "default":
        check_default(configuration, tmp_path)
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


def check_default(configuration, folder):
    """It settles by the plan, unless the learning rate decays by itself."""
    if configuration.name in ("Ftrl", "ScheduleFreeAdamW"):
        with pytest.raises(ValueError, match="`cooldown=0`"):
            run_fit(configuration, WAYS["default"], folder)
        return
    decays = configuration.name == "learning-rate schedule"
    has_end = not decays and configuration.name not in OF_UNKNOWN_LENGTH
    each = configuration.reference.get("accumulate", 1)
    deadline = SETTLES_AT[configurations.STEPS // each] if has_end else None
    frozen_at, expected = run_reference_of_default(configuration, deadline)
    grades, actual = run_fit(configuration, WAYS["default"], folder)
    monitor = grades.report.settings["monitor"]
    assert monitor == ("relative_change" if decays else "transfer")
    assert [c.frozen_at or 0 for c in grades.components] == frozen_at
    settles = has_end and configuration.ends_after is None
    assert all(frozen_at) if settles else not any(frozen_at)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=configuration.tolerance)


def data(configuration):
    return small.data(configurations.STEPS // configuration.epochs)


def run_reference(configuration, cooldown):
    """Freeze steps, statistics and final weights of the plain loop."""
    model, components = modelled(configuration)
    policy = FreezePolicy(tau=TAU, alpha=0)
    tau = policy.resolve(components, Outlook(None)).tau
    with finalized(model, configuration) as optimizer:
        frozen_at, trace = reference.train(
            *(model, optimizer, configuration.loss()),
            batches(configuration),
            [c.variables for c in components],
            tau=tau,
            grace_steps=GRACE,
            cooldown=cooldown,
            **configuration.reference,
        )
    return frozen_at, trace, small.weights(model)


def run_reference_of_default(configuration, deadline):
    """Freeze steps and final weights: no cosine is known so early."""
    model, components = modelled(configuration)
    with finalized(model, configuration) as optimizer:
        _, frozen_at, trace, _ = reference.train_until_settled(
            *(model, optimizer, configuration.loss()),
            batches(configuration),
            [c.variables for c in components],
            [c.block for c in components],
            part=configurations.STEPS + 1,
            patience=0,
            cooldown=0.25,
            deadline=deadline,
            **configuration.reference,
        )
    assert np.isnan(trace).all()
    return frozen_at, small.weights(model)


def modelled(configuration):
    model = configuration.model()
    return model, keras_grades.find_components(model)


def batches(configuration):
    x, y = data(configuration)
    found = small.batches(x, y, configurations.BATCH)
    if configuration.weights is not None:
        weights = configuration.weights(y)
        weights = small.batches(weights, y, configurations.BATCH)
        found = [(*batch, w) for batch, (w, _) in zip(found, weights)]
    return found * (configuration.ends_after or configuration.epochs)


@contextlib.contextmanager
def finalized(model, configuration):
    """A context with the optimizer of a plain loop.

    At its end what is not frozen takes its average, where there is one.
    """
    optimizer = (configuration.plain_optimizer or configuration.optimizer)()
    trainable = list(model.trainable_variables)
    yield optimizer
    frozen = [v for v in trainable if not v.trainable]
    values = [np.copy(keras.ops.convert_to_numpy(v)) for v in frozen]
    optimizer.finalize_variable_values(trainable)
    for variable, value in zip(frozen, values):
        variable.assign(value)


def run_fit(configuration, way, folder):
    model = configuration.model()
    model.compile(
        **{
            "optimizer": configuration.optimizer(),
            "loss": small.loss(),
            **configuration.compile,
        }
    )
    grades = keras_grades.GradES(verbose=0, **way)
    others = configuration.callbacks(folder)
    # First or last, in turns.
    callbacks = (
        [grades, *others]
        if way.get("recompile") == "always"
        else [*others, grades]
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
