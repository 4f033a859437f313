"""Whatever goes wrong in `fit()`, wherever: nothing of the model is lost."""

import functools
import itertools

import hypothesis
import keras
import numpy as np
import pytest
import small
from hypothesis import strategies as st

from keras_grades import GradES
from keras_grades.backend import backend

EPOCHS, BATCHES, BATCH = 3, 5, 4
# Some freeze, so that the train step is rebuilt, and some do not.
TAU = {"query|value|up": 1e30, "": 1e-30}
ALPHA = 4
HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_epoch_end",
    "on_test_begin",
    "on_train_end",
)
DATA = ("data", "generator")
PLACES = (*HOOKS, "data", "rebuild", "train function", "test function")
BACKEND = keras.backend.backend()


class Fault(Exception):
    pass


class FaultyCallback(keras.callbacks.Callback):
    """Raises when one of its methods is called for the n-th time."""

    def __init__(self, hook, n, error):
        super().__init__()
        calls = 0

        def count(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == n:
                raise error

        setattr(self, hook, count)


def generator(n, error):
    """A generator of the batches, which raises before its n-th."""
    batches = small.batches(*small.data(BATCHES, BATCH), BATCH)
    for count, batch in enumerate(itertools.cycle(batches), start=1):
        if count == n:
            raise error
        yield batch


def dataset(n=None, error=None):
    """The batches as a `tf.data.Dataset`, which fails before its n-th.

    Without autotuning: to clear away its thread, which waits for minutes,
    TensorFlow now and then waits as long.
    """
    import tensorflow as tf

    def check(count, batch):
        name = type(error).__name__
        with tf.control_dependencies(
            [tf.debugging.assert_less(count, tf.cast(n, count.dtype), name)]
        ):
            return tf.nest.map_structure(tf.identity, batch)

    batches = tf.data.Dataset.from_tensor_slices(small.data(BATCHES, BATCH))
    batches = batches.batch(BATCH).repeat()
    if n is not None:
        batches = batches.enumerate(start=1).map(check)
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def compiled():
    model = small.transformer(blocks=1)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.1)
    model.compile(optimizer, small.loss())
    return model, optimizer


def fit(model, *callbacks, batches=None, validates=False):
    x, y = small.data(BATCHES, BATCH)
    arguments = {"x": x, "y": y, "batch_size": BATCH, "shuffle": False}
    validation = small.data(1) if validates else None
    if BACKEND == "tensorflow":
        arguments = {"x": dataset()}
        validation = dataset().take(1) if validates else None
    if batches is not None:
        arguments = {"x": batches}
    return model.fit(
        **arguments,
        steps_per_epoch=BATCHES,
        epochs=EPOCHS,
        validation_data=validation,
        callbacks=list(callbacks),
        verbose=0,
    )


class Weights(keras.callbacks.Callback):
    def __init__(self, model):
        super().__init__()
        self.after = [small.weights(model)]

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(small.weights(self.model))


@functools.cache
def weights_after():
    """The weights after each step of a run in which nothing goes wrong."""
    model, _ = compiled()
    weights = Weights(model)
    fit(model, GradES(TAU, alpha=ALPHA, recompile="never", verbose=0), weights)
    return weights.after


def run_with_fault(model, grades, place, n, error):
    """Whether `fit()` met the fault."""
    callbacks, batches = [grades], None
    patch = pytest.MonkeyPatch()
    if place in HOOKS:
        callbacks.insert(n % 2, FaultyCallback(place, n, error))
    elif place == "generator":
        batches = generator(n, error)
    elif place == "data":
        batches = (dataset if BACKEND == "tensorflow" else generator)(n, error)
    else:
        raise_in_functions(patch, type(model), place, n, error)
    with patch.context():
        try:
            validates = place in ("on_test_begin", "test function")
            fit(model, *callbacks, batches=batches, validates=validates)
        except (Fault, KeyboardInterrupt) as raised:
            assert raised is error
            return True
        except Exception as wrapped:
            # TensorFlow wraps what is raised in its data.
            assert place in DATA and type(error).__name__ in str(wrapped)
            return True
        finally:
            patch.undo()
    return False


def raise_in_functions(patch, model_class, place, n, error):
    """Makes the n-th (re)build fail, or the n-th call of what it built."""
    of_test = place == "test function"
    maker, made = (
        ("make_test_function", "test_function")
        if of_test
        else ("make_train_function", "train_function")
    )
    make = getattr(model_class, maker)
    count = 0

    def step(function):
        def faulty_function(*args):
            nonlocal count
            count += 1
            if count == n:
                raise error
            return function(*args)

        return faulty_function

    def faulty_make(self, force=False):
        nonlocal count
        if place == "rebuild":
            count += 1
            # The first two are those of the start of `fit()`.
            if count == n + 2:
                raise error
        is_new = force or getattr(self, made) is None
        make(self, force=force)
        if place == "train function" and force or of_test and is_new:
            setattr(self, made, step(getattr(self, made)))

    patch.setattr(model_class, maker, faulty_make)


def check_nothing_is_lost(model, optimizer, place, n):
    steps, tolerance = int(optimizer.iterations), 1e-5
    if place in DATA and BACKEND == "tensorflow" and steps:
        # Of a step without data, TensorFlow may run what needs none: it
        # counts, and decays the weights.
        steps, tolerance = min(steps, n - 1), 5e-3
    for actual, expected in zip(small.weights(model), weights_after()[steps]):
        np.testing.assert_allclose(actual, expected, atol=tolerance)
    x, _ = small.data(1)
    assert np.isfinite(model.predict(x, verbose=0)).all()


def check_as_it_was(model, optimizer, attributes):
    assert model.optimizer is optimizer
    assert all(v.trainable for v in model.trainable_variables)
    assert len(model.non_trainable_variables) == 0
    assert model._compile_config.config["optimizer"] is optimizer
    added = {
        "_eval_epoch_iterator",
        "_jax_state",
        "history",
        "stop_evaluating",
        "stop_predicting",
    }
    assert set(vars(model)) - added <= attributes


AFTERWARDS = ("restore", "fit", "compile", "save")


def check_fault(place, n, kind, recompile, afterwards, tmp_path):
    """Checks what a fault leaves behind; returns whether there was one."""
    error = kind("injected")
    model, optimizer = compiled()
    grades = GradES(TAU, alpha=ALPHA, recompile=recompile, verbose=0)
    attributes = set(vars(model))
    met = run_with_fault(model, grades, place, n, error)
    check_nothing_is_lost(model, optimizer, place, n)
    if not met:
        check_as_it_was(model, optimizer, attributes)
        return False
    if afterwards == "save":
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        for a, b in zip(small.weights(loaded), small.weights(model)):
            np.testing.assert_array_equal(a, b)
        grades.restore()
    elif afterwards == "restore":
        grades.restore()
    elif afterwards == "compile":
        optimizer = keras.optimizers.SGD(0.01)
        model.compile(optimizer, small.loss())
    if afterwards != "fit":
        check_as_it_was(model, optimizer, attributes)
    steps = int(optimizer.iterations)
    again = GradES(1e30, alpha=3, verbose=0)
    fit(model, again)
    assert again.stopped_step == 3
    np.testing.assert_array_equal(again.trace["step"], [1, 2, 3])
    assert int(optimizer.iterations) == steps + 3
    check_as_it_was(model, optimizer, attributes)
    return True


faults = st.fixed_dictionaries(
    {
        "place": st.sampled_from(PLACES),
        "n": st.integers(1, EPOCHS * BATCHES),
        "kind": st.sampled_from([Fault, KeyboardInterrupt]),
        "recompile": st.sampled_from(["always", "never"]),
        "afterwards": st.sampled_from(AFTERWARDS),
    }
)


# One of each place, at a step after the first freeze, where there is one.
@pytest.mark.parametrize(
    ("place", "n", "afterwards"),
    [
        ("on_train_batch_begin", 5, "fit"),
        ("data", 7, "fit"),
        ("generator", 7, "save"),
        ("rebuild", 1, "restore"),
        ("train function", 5, "compile"),
        ("test function", 1, "fit"),
        ("test function", 2, "restore"),
    ],
)
def test_one_fault(place, n, afterwards, tmp_path):
    assert check_fault(place, n, Fault, "always", afterwards, tmp_path)


@pytest.mark.long
@hypothesis.settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(fault=faults)
def test_faults(fault, tmp_path):
    check_fault(**fault, tmp_path=tmp_path)


@pytest.mark.skipif(BACKEND != "jax", reason="it is about JAX")
def test_an_error_is_shown_where_the_weights_are_lost():
    """They were given to a step that failed, as when memory runs out."""
    model, _ = compiled()

    class Lost(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            self.model.test_function = self.fail

        def fail(self, state, iterator):
            for values in state:
                for value in values:
                    value.delete()
            raise Fault

    grades = GradES(TAU, alpha=ALPHA, recompile="never", verbose=0)
    with pytest.raises(Fault):
        fit(model, grades, Lost(), validates=True)
    assert any(c.frozen_at for c in grades.components)


def test_context_manager_restores_at_once():
    model, optimizer = compiled()
    attributes = set(vars(model))
    fault = FaultyCallback("on_train_batch_end", 6, Fault())
    with (
        pytest.raises(Fault),
        GradES(TAU, alpha=ALPHA, recompile="always", verbose=0) as grades,
    ):
        fit(model, grades, fault)
    assert any(c.frozen_at for c in grades.components)
    check_as_it_was(model, optimizer, attributes)


def test_two_at_once_are_refused():
    model, _ = compiled()
    with pytest.raises(ValueError, match="one of them only"):
        fit(model, GradES(TAU, alpha=3), GradES(TAU, alpha=3))


def test_fault_while_the_state_is_read(monkeypatch):
    """The step is done, and its weights are kept."""
    model, optimizer = compiled()
    attributes = set(vars(model))
    read, calls = backend.read, []

    def faulty_read(*args):
        calls.append(1)
        if len(calls) == 6:
            raise Fault
        return read(*args)

    monkeypatch.setattr(backend, "read", faulty_read)
    grades = GradES(TAU, alpha=ALPHA, recompile="never", verbose=0)
    with pytest.raises(Fault):
        fit(model, grades)
    grades.restore()
    assert int(optimizer.iterations) > 0
    check_nothing_is_lost(model, optimizer, "look", 0)
    check_as_it_was(model, optimizer, attributes)


def test_what_the_user_has_put_on_the_model_stays():
    model, _ = compiled()
    own = model.train_step
    model.train_step = lambda *args: own(*args)
    mine = model.train_step
    fit(model, GradES(TAU, alpha=ALPHA, verbose=0))
    assert model.train_step is mine
