"""The host looks at the state of a run, and does not wait for the device."""

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES
from keras_grades.backend import backend
from keras_grades.run import Run

pytestmark = pytest.mark.alike

# Decides at step 120 of 240, by the plan; and freezes one by one.
SETTLES = {"monitor": "transfer", "cooldown": 1.0}
FREEZES = {"tau": {"query|up": 1e30, "": 1e-30}, "alpha": 301}


def train(epochs=2, steps=120, **arguments):
    model = small.transformer()
    model.compile(keras.optimizers.Adam(1e-3), small.loss())
    grades = GradES(**arguments, verbose=0)
    x, y = small.data(steps)
    model.fit(
        x, y, 4, epochs=epochs, shuffle=False, verbose=0, callbacks=[grades]
    )
    return model, grades


@pytest.fixture
def calls(monkeypatch):
    """Counts the looks that wait, and those that do not."""
    count = {"read": 0, "begin_to_read": 0}

    def counted(name):
        real = getattr(backend, name)

        def call(*args):
            count[name] += 1
            return real(*args)

        return call

    for name in count:
        monkeypatch.setattr(backend, name, counted(name))
    return count


@pytest.mark.everywhere
def test_it_waits_only_where_training_pauses(calls):
    _, grades = train(**SETTLES)
    assert grades.stopped_step == 240
    # Where it begins, after the first step and that of a rebuild, and after two
    # epochs; where the last step is known to be; and at the end of `fit()`.
    assert calls["read"] <= 7
    assert calls["begin_to_read"] >= 240 - 7


def test_a_long_run_is_looked_at_once_in_eight_steps(calls):
    train(steps=400, epochs=5, tau=1e-30, alpha=0)
    assert 2000 // 8 - 10 <= calls["begin_to_read"] <= 2000 // 8
    assert calls["read"] <= 2 + 5 + 1


@pytest.mark.everywhere
@pytest.mark.parametrize("recompile", ["never", "always"])
def test_waiting_would_change_no_decision(recompile, monkeypatch):
    model, grades = train(recompile=recompile, **SETTLES)
    monkeypatch.setattr(Run, "_must_wait", lambda run: True)
    waiting, expected = train(recompile=recompile, **SETTLES)
    assert {c.frozen_at for c in grades.components} == {180, 240}
    for found, of in zip(grades.components, expected.components):
        assert found.frozen_at == of.frozen_at
    assert grades.stopped_step == expected.stopped_step
    for name, values in grades.trace.items():
        np.testing.assert_array_equal(values, expected.trace[name])
    if recompile == "never":  # Else it is compiled a look later.
        for found, of in zip(small.weights(model), small.weights(waiting)):
            np.testing.assert_array_equal(found, of)


@pytest.mark.parametrize("steps, late", [(150, 0), (400, 4), (800, 8)])
def test_what_freezes_at_once_stops_a_hundredth_later_at_most(steps, late):
    _, grades = train(
        **{**FREEZES, "alpha": steps // 2 + 1},
        epochs=1,
        steps=steps,
        max_frozen_ratio=0.3,
    )
    frozen_at = {c.frozen_at for c in grades.components} - {None}
    assert frozen_at == {steps // 2 + 1}
    assert 0 <= grades.stopped_step - steps // 2 - 1 <= late
    assert len(grades.trace["step"]) == grades.stopped_step


@pytest.mark.everywhere
@pytest.mark.parametrize("alpha", [0, 205])
def test_each_step_is_in_the_trace_as_it_was(alpha):
    """On JAX a step is given the arrays of the last one, to write to."""
    _, grades = train(steps=105, tau=1e-30, alpha=alpha)
    assert grades.trace["step"].tolist() == list(range(1, 211))
    # No row is that of another step.
    statistic = grades.trace["statistic"]
    assert (np.diff(statistic, axis=0) != 0).any(axis=1).all()
