"""The next train step is compiled while this one trains, and nothing shows."""

import concurrent.futures
import dataclasses
import threading

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES
from keras_grades.backend import backend
from keras_grades.criterion import Prescribed

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="only JAX compiles beside training",
)

STEPS, FALL = 40, 20
# Of two blocks, the lower one freezes in the middle of the fall.
FIRST, LAST = STEPS - FALL // 2, STEPS
# As many as a block has: it is rebuilt for each.
BLOCK = 6
# It keeps something for each variable, and frees that.
KEEPS = {
    "tau": 1.0,
    "monitor": "gradient_change",
    "criterion": Prescribed([FIRST - FALL] * BLOCK + [LAST - FALL] * BLOCK),
}
long = pytest.mark.long


def compiled(optimizer=None, cls=keras.Model, **arguments):
    made = small.transformer()
    model = cls(made.inputs, made.outputs)
    model.compile(
        optimizer or keras.optimizers.AdamW(1e-3), small.loss(), **arguments
    )
    return model


def averaged():
    return compiled(keras.optimizers.SGD(0.1, use_ema=True))


def scaled():
    inner = keras.optimizers.Adam(1e-3, global_clipnorm=0.1)
    return compiled(keras.optimizers.LossScaleOptimizer(inner))


def in_pairs():
    return compiled(steps_per_execution=2)


def by_muon():
    return compiled(keras.optimizers.Muon(1e-3))


def fit(model, *callbacks, batches=STEPS, criterion=None, **arguments):
    grades = GradES(
        **{"cooldown": FALL, "recompile": BLOCK, "verbose": 0, **arguments}
    )
    grades.policy = dataclasses.replace(grades.policy, criterion=criterion)
    x, y = small.data(batches)
    model.fit(x, y, 4, shuffle=False, verbose=0, callbacks=[grades, *callbacks])
    return grades


def state(model):
    variables = model.variables + model.optimizer.variables
    return [np.array(v) for v in variables]


def before_steps(function):
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: function(batch)
    )


@pytest.fixture
def compilations():
    """The threads that XLA has compiled in, in this order."""
    import jax

    threads = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            threads.append(threading.current_thread())

    jax.monitoring.register_event_duration_secs_listener(listen)
    return threads


@pytest.fixture
def prepared(monkeypatch):
    """What was compiled beside training: a list of `Future`."""
    begin, found = backend.begin_to_compile, []

    def begin_and_keep(*arguments):
        found.append(begin(*arguments))
        return found[-1]

    monkeypatch.setattr(backend, "begin_to_compile", begin_and_keep)
    return found


def without(monkeypatch):
    monkeypatch.setattr(backend, "compiles_ahead", lambda *_: False)


def test_the_rebuilt_step_is_there_already(compilations, prepared):
    seen = []

    def look(batch):
        if prepared:
            prepared[0].result()
        seen.append((len(model.trainable_variables), len(compilations)))

    model = compiled()
    grades = fit(model, before_steps(look))
    assert {c.frozen_at for c in grades.components} == {FIRST, LAST}
    # The block is seen to be frozen a look later.
    assert grades.report.timing["compilations"][1]["step"] == FIRST + 2
    sizes, compiled_by = np.array(seen).T
    assert (np.diff(sizes) < 0).nonzero()[0].tolist() == [FIRST]
    # Once beside training; and nothing when the flags are flipped, or then.
    assert len(prepared) == 1
    others = [t for t in compilations if t is not threading.main_thread()]
    assert len(others) == 1
    assert compiled_by[FIRST] == compiled_by[STEPS - 1]


@pytest.mark.parametrize(
    "make, arguments",
    [
        pytest.param(compiled, {}, marks=long),
        (averaged, {"truncate_backward": True}),
        (compiled, KEEPS),
        pytest.param(scaled, {}, marks=long),
        pytest.param(in_pairs, {}, marks=long),
        pytest.param(by_muon, {}, marks=long),
    ],
)
def test_training_goes_on_as_if_compiled_when_needed(
    make, arguments, prepared, monkeypatch
):
    model = make()
    grades = fit(model, **arguments)
    assert prepared
    with monkeypatch.context() as patch:
        without(patch)
        other = make()
        beside = fit(other, **arguments)
    assert [c.frozen_at for c in grades.components] == [
        c.frozen_at for c in beside.components
    ]
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_shows_until_then_and_it_waits(monkeypatch):
    """However long it takes, the step is put in at the same look."""
    waited = []

    class Late(concurrent.futures.Future):
        def result(self, timeout=None):
            waited.append(seen[-1])

    model = averaged()
    seen, begun = [], []

    def begin(*arguments):
        begun.append(len(seen))
        return Late()

    def look(batch):
        optimizer = model.optimizer
        everything = (
            model.trainable_variables,
            optimizer._trainable_variables,
            optimizer._model_variables_moving_average,
        )
        seen.append([len(each) for each in everything])

    monkeypatch.setattr(backend, "begin_to_compile", begin)
    grades = fit(model, before_steps(look))
    assert len(begun) == 1 and begun[0] < FIRST
    whole = seen[0]
    assert seen[: FIRST + 1] == [whole] * (FIRST + 1)
    assert waited == [whole]
    assert max(seen[FIRST + 1]) < min(whole)
    assert {c.frozen_at for c in grades.components} == {FIRST, LAST}


def test_a_batch_of_another_size_is_compiled_for_itself(prepared, monkeypatch):
    def trained():
        model = compiled()
        x, y = small.data(STEPS)
        grades = GradES(cooldown=FALL, recompile=BLOCK, verbose=0)
        # The last one has two examples.
        model.fit(
            x[:-2], y[:-2], 4, shuffle=False, verbose=0, callbacks=[grades]
        )
        return model

    model = trained()
    assert prepared
    with monkeypatch.context() as patch:
        without(patch)
        other = trained()
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_is_interrupted_meanwhile(prepared):
    def interrupt(batch):
        if prepared:
            raise KeyboardInterrupt

    model = compiled()
    trainable = len(model.trainable_variables)
    with pytest.raises(KeyboardInterrupt):
        fit(model, before_steps(interrupt))
    x, y = small.data(2)
    model.fit(x, y, 4, verbose=0)
    assert len(model.trainable_variables) == trainable
    assert type(model.optimizer) is keras.optimizers.AdamW
    assert int(model.optimizer.iterations) == STEPS - FALL + 2


def test_an_error_of_the_compiler_is_raised_with_the_flags_as_they_were(
    monkeypatch,
):
    failed = concurrent.futures.Future()
    failed.set_exception(RuntimeError("out of memory"))
    monkeypatch.setattr(backend, "begin_to_compile", lambda *_: failed)
    model = compiled()
    trainable = len(model.trainable_variables)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(model)
    assert len(model.trainable_variables) == trainable


def test_an_error_in_tracing_leaves_all_as_it_was(monkeypatch):
    def fail(*_):
        raise RuntimeError("cannot trace")

    monkeypatch.setattr(backend, "begin_to_compile", fail)
    model = compiled()
    trainable = len(model.trainable_variables)
    with pytest.raises(RuntimeError, match="cannot trace"):
        fit(model)
    assert len(model.trainable_variables) == trainable
    monkeypatch.undo()
    fit(model)


class OwnFunction(keras.Model):
    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force=force)
            of_keras = self.train_function
            self.train_function = lambda *arguments: of_keras(*arguments)


def test_a_train_function_of_ones_own_is_compiled_when_needed(prepared):
    grades = fit(compiled(cls=OwnFunction))
    assert not prepared
    assert len(grades.report.timing["compilations"]) == 2


@long
def test_eager_steps_are_not_compiled(prepared):
    fit(compiled(run_eagerly=True), batches=STEPS)
    assert not prepared
