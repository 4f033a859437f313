"""The next train step is compiled while this one trains, and nothing shows."""

import concurrent.futures
import dataclasses
import functools
import math
import threading

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES
from keras_grades import GradESMixin
from keras_grades.backend import backend
from keras_grades.component import Component
from keras_grades.criterion import Prescribed
from keras_grades.keras_internals import jax_state
from keras_grades.rebuild.costs import StepWork
from keras_grades.rebuild.decision import RebuildPolicy
from keras_grades.rebuild.rebuilder import Rebuilder

if keras.backend.backend() == "jax":
    from compilations import compilations as compilations
    from compilations import prepared as prepared

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


class MixedIn(GradESMixin, keras.Model):
    pass


def mixed_in():
    return compiled(cls=MixedIn)


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
    # The first one, and one beside training, before the flags are flipped.
    assert len(prepared) == 1
    assert len(compilations) == 2
    assert compilations[0] is threading.main_thread()
    assert compilations[1] is not threading.main_thread()
    assert compiled_by[FIRST] == 2


@pytest.mark.parametrize(
    "make, arguments",
    [
        pytest.param(compiled, {}, marks=long),
        (averaged, {"truncate_backward": True}),
        (mixed_in, KEEPS),
        pytest.param(scaled, {}, marks=long),
        pytest.param(in_pairs, {}, marks=long),
        pytest.param(by_muon, {}, marks=long),
    ],
)
def test_training_goes_on_as_if_compiled_when_needed(
    make, arguments, prepared, compilations, monkeypatch
):
    model = make()
    grades = fit(model, **arguments)
    # It is the one that is called.
    assert len(prepared) == 1
    assert len(compilations) == 2
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
    model, waited = averaged(), []
    seen, begun = [], []

    def begin(*arguments):
        begun.append(len(seen))
        return concurrent.futures.Future()

    def look(batch):
        optimizer = model.optimizer
        everything = (
            model.trainable_variables,
            optimizer._trainable_variables,
            optimizer._model_variables_moving_average,
        )
        seen.append([len(each) for each in everything])

    monkeypatch.setattr(backend, "begin_to_compile", begin)
    monkeypatch.setattr(concurrent.futures, "wait", waited.append)
    grades = fit(model, before_steps(look))
    assert len(begun) == 1 and begun[0] < FIRST
    whole = seen[0]
    assert seen[: FIRST + 1] == [whole] * (FIRST + 1)
    assert len(waited) == 1
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


def test_a_last_batch_that_is_smaller_is_compiled_for_too(
    prepared, compilations
):
    model, grades = compiled(), prescribed()
    epochs = 5
    x, y = small.data(STEPS // epochs)
    fitted = model.fit(
        *(x[:-2], y[:-2], 4),
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[grades],
    )
    assert len(fitted.epoch) == epochs
    assert STEPS // epochs < FIRST - FALL < FIRST < STEPS - STEPS // epochs
    assert len(prepared) == 1
    main = threading.main_thread()
    assert [thread is main for thread in compilations] == [1, 1, 0, 0]
    assert {c.frozen_at for c in grades.components} == {FIRST, LAST}


def prescribed():
    """Its blocks come to rest at FIRST and LAST, whatever is measured."""
    grades = GradES(1.0, cooldown=FALL, recompile=BLOCK, alpha=0, verbose=0)
    steps = [FIRST - FALL] * BLOCK + [LAST - FALL] * BLOCK
    grades.policy = dataclasses.replace(
        grades.policy, criterion=Prescribed(steps)
    )
    return grades


def test_a_later_call_with_batches_of_another_size(prepared, compilations):
    model = compiled()
    grades = prescribed()
    x, y = small.data(STEPS)
    options = {"epochs": 2, "verbose": 0, "callbacks": [grades]}
    model.fit(x[:4], y[:4], 4, epochs=1, verbose=0, callbacks=[grades])
    model.fit(x, y, 2, initial_epoch=1, **options)
    assert {c.frozen_at for c in grades.components} == {FIRST, LAST}
    # A step for each size of a batch, and the one that was prepared.
    assert len(prepared) == 1
    assert len(compilations) == 3


def test_data_that_ends_before_a_first_call_is_no_first_call(monkeypatch):
    """Then that is still to come, and its time to be told."""
    model, told = compiled(), []
    grades = GradES(1e-30, alpha=0, verbose=0)
    grades.set_model(model)
    grades.set_params({"steps": 2, "epochs": 1})
    grades.on_train_begin()
    installation = grades._run.installation
    monkeypatch.setattr(
        installation, "_after_call", lambda output, began: told.append(began)
    )
    outputs = iter([StopIteration, "first", "second"])

    def train_function(state, iterator):
        output = next(outputs)
        if output is StopIteration:
            raise StopIteration
        return output

    reporting = installation._reporting(train_function)
    batches = iter([np.zeros(1)] * 3)
    for output in (StopIteration, "first", "second"):
        if output is StopIteration:
            with pytest.raises(StopIteration):
                reporting([], batches)
        else:
            assert reporting([], batches) == output
    first, second = told
    assert first is not None and second is None
    grades.restore()


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


def test_what_could_not_be_compiled_beside_training_is_when_needed(monkeypatch):
    failed = concurrent.futures.Future()
    failed.set_exception(RuntimeError("out of memory"))
    monkeypatch.setattr(backend, "begin_to_compile", lambda *_: failed)
    grades = fit(compiled())
    assert {c.frozen_at for c in grades.components} == {FIRST, LAST}
    assert len(grades.report.timing["compilations"]) == 2


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


class Called:
    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


class OwnFunction(keras.Model):
    """Its train function is not that of Keras, nor a Python function."""

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force=force)
            self.train_function = Called(self.train_function)


@pytest.mark.parametrize(
    "arguments",
    [{"cls": OwnFunction}, pytest.param({"jit_compile": False}, marks=long)],
)
def test_other_functions_are_compiled_when_needed(prepared, arguments):
    grades = fit(compiled(**arguments))
    assert not prepared
    assert len(grades.report.timing["compilations"]) >= 2


class Slow:
    """In the place of an `Installation`: what it does takes time."""

    can_prepare = True
    is_preparing = False
    kinds_of_batches = 1
    model = None

    def __init__(self):
        self.now = 0.0
        self.done = []

    def clock(self):
        return self.now

    def prepare(self, variables):
        self._do("prepare", variables, 3.0)
        self.is_preparing = True

    def freeze(self, variables):
        self._do("freeze", variables, 2.0)
        self.is_preparing = False

    def _do(self, what, variables, seconds):
        self.now += seconds
        self.done.append((what, len(variables)))


REST_AT = np.array([20, 20, 30])


def of_three(slow):
    """What rebuilds a model of three components, what decides on it, and a
    look at it."""
    rebuilds = RebuildPolicy("always", 100, False, math.inf)
    components = [
        Component(c, "query", c, (keras.Variable(np.ones((2, 2))),))
        for c in "abc"
    ]
    weights = [v for c in components for v in c.variables]
    work = StepWork(weights, [4] * 3, components, [])
    rebuilder = Rebuilder(slow, rebuilds, work, components, [], slow.clock)

    def look(step, time):
        slow.now, frozen = time, step >= REST_AT
        rebuilder.ran(step, time, True, frozen)
        rebuilder.decide(step, frozen, REST_AT, 40)

    return rebuilder, rebuilds, look


def test_it_waits_for_the_first_batch_of_a_next_fit():
    slow = Slow()
    rebuilder, _, look = of_three(slow)
    rebuilder.compiled(1, began=0.0, ended=10.0)
    look(5, 14.0)  # At the end of an epoch.
    slow.can_prepare = False
    rebuilder.act()
    assert not slow.done
    slow.can_prepare = True
    rebuilder.act()
    assert slow.done == [("prepare", 2)]


def test_all_that_holds_training_up_is_counted():
    slow = Slow()
    rebuilder, rebuilds, only_look = of_three(slow)

    def look(step, time):
        only_look(step, time)
        rebuilder.act()

    rebuilder.compiled(1, began=0.0, ended=10.0)
    look(5, 14.0)
    assert slow.done == [("prepare", 2)]  # Until 17.
    look(9, 25.0)  # Four steps at half the speed.
    slow.is_preparing = False
    look(13, 29.0)
    look(20, 36.0)
    assert slow.done[1:] == [("freeze", 2)]  # Until 38.
    rebuilder.compiled(21, began=38.0, ended=39.0)
    last = rebuilds.timing()["compilations"][-1]
    assert last["seconds"] == 3 + 4 + 2 + 1
    assert last["step_seconds_before"] == 1.0
    # The next one begins at a look that has waited, and that one has not.
    look(25, 43.0)
    assert slow.done[2:] == [("prepare", 3)]
    rebuilder.ran(29, 50.0, False, REST_AT <= 25)
    look(30, 51.0)
    rebuilder.compiled(31, began=53.0, ended=54.0)
    last = rebuilds.timing()["compilations"][-1]
    assert last["seconds"] == 3 + 2 + 1


def test_a_loop_of_fits_compiles_it_once(prepared, compilations):
    model = compiled()
    grades = prescribed()
    x, y = small.data(2)
    for epoch in range(STEPS // 2):
        model.fit(
            x,
            y,
            4,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            callbacks=[grades],
        )
    assert {c.frozen_at for c in grades.components} == {FIRST, LAST}
    assert len(prepared) == 1
    # The second one beside training.
    first, second = compilations
    assert first is not second


def test_the_step_of_keras_is_found_and_that_of_others_is_not():
    def wrapped(*arguments):
        return model.train_function(*arguments)

    model = compiled()
    model.make_train_function()
    assert jax_state.compiled_step(model.train_function) is not None
    functools.update_wrapper(wrapped, model.train_function)
    assert jax_state.compiled_step(wrapped) is None


def test_two_runs_of_one_mixed_in_model_are_not_taken_for_each_other():
    """Compilers cache what they have traced by function."""
    model = mixed_in()
    x, y = small.data(4)
    for tau, frozen in ((1e-30, 0), (1e30, 1)):
        grades = GradES(tau, alpha=0, recompile="never", verbose=0)
        model.fit(x, y, 4, verbose=0, callbacks=[grades])
        ratio = np.mean([c.frozen_at is not None for c in grades.components])
        assert ratio == frozen
