"""The host looks at the state of a run, and does not wait for the device."""

import functools

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES
from keras_grades.backend import backend
from keras_grades.looks import next_look
from keras_grades.rebuild.costs import StepWork
from keras_grades.rebuild.rebuilder import Rebuilder
from keras_grades.run import Run

pytestmark = pytest.mark.alike

# Decides halfway, by the plan, and freezes one by one.
SETTLES = {"monitor": "transfer", "cooldown": 1.0}


def train(epochs=2, steps=120, callbacks=(), **arguments):
    model = small.transformer()
    model.compile(keras.optimizers.Adam(1e-3), small.loss())
    grades = GradES(**arguments, verbose=0)
    fit(model, grades, epochs, steps, callbacks)
    return model, grades


def fit(model, grades, epochs, steps, callbacks=(), first=0):
    x, y = small.data(steps)
    model.fit(
        x,
        y,
        4,
        initial_epoch=first,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[grades, *callbacks],
    )


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
    _, grades = train(steps=60, **SETTLES)
    assert grades.stopped_step == 120
    # Where it begins, after the first step and that of a rebuild, at the
    # deadline, and after two epochs; where the last step is known to be; and
    # at the end of `fit()`.
    assert calls["read"] <= 8
    assert calls["begin_to_read"] >= 120 - 8


@pytest.mark.parametrize(
    "total_steps, every", [(100, 1), (400, 2), (2000, 8), (None, 4)]
)
def test_two_looks_take_a_hundredth_or_sixteen_steps(total_steps, every):
    step, looks = 0, []
    while step < 400:
        step = next_look(step, total_steps, grace_steps=0)
        looks.append(step)
    assert looks == list(range(every, 401, every))


@pytest.mark.everywhere
@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="it is JAX that dispatches ahead"
)
def test_a_long_run_is_looked_at_once_in_eight_steps(calls):
    train(steps=400, epochs=5, tau=1e-30, alpha=0)
    assert 2000 // 8 - 10 <= calls["begin_to_read"] <= 2000 // 8
    assert calls["read"] <= 2 + 5 + 1


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "recompile", ["never", pytest.param("always", marks=pytest.mark.long)]
)
def test_waiting_would_change_no_decision(recompile, monkeypatch):
    model, grades = train(steps=60, recompile=recompile, **SETTLES)
    monkeypatch.setattr(Run, "_must_wait", lambda run: True)
    waiting, expected = train(steps=60, recompile=recompile, **SETTLES)
    assert {c.frozen_at for c in grades.components} == {90, 120}
    for found, of in zip(grades.components, expected.components):
        assert found.frozen_at == of.frozen_at
    assert grades.stopped_step == expected.stopped_step
    for name, values in grades.trace.items():
        np.testing.assert_array_equal(values, expected.trace[name])
    if recompile == "never":  # Else it is compiled a look later.
        for found, of in zip(small.weights(model), small.weights(waiting)):
            np.testing.assert_array_equal(found, of)


@pytest.mark.parametrize(
    "steps, late",
    [(150, 0), (400, 4), pytest.param(800, 8, marks=pytest.mark.long)],
)
def test_what_freezes_at_once_stops_a_hundredth_later_at_most(steps, late):
    _, grades = train(
        epochs=1,
        steps=steps,
        tau={"query|up": 1e30, "": 1e-30},
        alpha=steps // 2 + 1,
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
    np.testing.assert_allclose(
        grades.trace["statistic"].mean(axis=1), logged(), rtol=1e-4
    )


@functools.cache
def logged():
    """The mean statistic of each step, where the host waits for it."""
    means = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: means.append(logs["statistic"])
    )
    train(steps=105, callbacks=[note], tau=1e-30, alpha=0)
    return means


def test_a_run_that_is_resumed_stops_at_the_same_step(tmp_path):
    """One step before the end, which it knows from the file."""
    path = tmp_path / "model.keras"
    settles = {"tau": 1e30, "alpha": 90, "cooldown": 12}
    _, grades = train(2, 101, [small.SavesFirstEpoch(path)], **settles)
    assert grades.stopped_step == 102
    model, resumed = keras.saving.load_model(path), GradES(**settles, verbose=0)
    fit(model, resumed, 2, 101, first=1)
    assert resumed.stopped_step == 102


@pytest.mark.everywhere
def test_an_interrupted_run_goes_on_from_its_last_step():
    """Not from its last look."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (1, 40):
                raise KeyboardInterrupt

    model = small.transformer()
    model.compile(keras.optimizers.Adam(1e-3), small.loss())
    grades = GradES(1e-30, alpha=230, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, grades, 3, 80, [Interrupt()])
    fit(model, grades, 3, 80, first=1)
    assert grades.total_steps == 120 + 160
    assert grades.trace["step"].tolist() == list(range(1, 281))


def test_time_is_taken_between_looks_of_one_kind():
    """The device may be behind where the host has not waited."""

    class Rebuilds:
        total_steps = None

        def __init__(self):
            self.taken = []

        def compiled(self, step, seconds):
            self.taken.append((step, seconds, "compiled"))

        def ran(self, steps, seconds, share, is_beside=False):
            assert not is_beside
            self.taken.append((steps, seconds, share))

    rebuilds, none = Rebuilds(), np.zeros(0, bool)
    work = StepWork([keras.Variable(1.0)], [1], [], [])
    rebuilder = Rebuilder(None, rebuilds, work, [], [], lambda: 200.0)
    rebuilder.compiled(1, began=0.0, ended=10.0)
    rebuilder.ran(9, 10.25, False, none)  # Eight are on their way.
    rebuilder.ran(17, 18.25, False, none)
    rebuilder.ran(20, 29.0, True, none)  # It catches up with eleven.
    rebuilder.skip_time(20)
    rebuilder.ran(22, 203.0, True, none)
    assert rebuilds.taken == [
        (1, 10.0, "compiled"),
        (8, None, 0.0),
        (8, 8.0, 0.0),
        (3, None, 0.0),
        (2, 3.0, 0.0),
    ]
