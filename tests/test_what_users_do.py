"""Whatever users do around `fit()`, in any order, the model stays theirs."""

import os
import tempfile

import keras
import numpy as np
import pytest
import small
from elsewhere import Elsewhere
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades.installation.attached import find_installation
from keras_grades.installation.installation import Installation

# None with averages of weights: on JAX Keras itself cannot fit twice with them.
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "accumulated": lambda: keras.optimizers.SGD(
        0.05, gradient_accumulation_steps=2
    ),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
}
# One matrix, which is never frozen by hand, freezes at step 2, or all.
FREEZES = {
    "some": {"tau": {"down": 1e30, "": 1e-30}, "alpha": 2},
    "all": {"tau": 1e30, "alpha": 2},
    "truncated": {"tau": 1e30, "alpha": 2, "truncate_backward": True},
}
NEVER = {"tau": 1e-30, "alpha": 1}
# Files that hold the model as a whole, and others. A tree of the state is what
# `OrbaxCheckpoint` writes.
MODELS = ("m.keras", "m.h5")
FILES = (*MODELS, "m.weights.h5", "tree")
if keras.backend.backend() == "tensorflow":
    FILES += ("checkpoint",)
# Not attention: Keras loads that with its parts unfrozen.
LAYERS = ("block_0_norm_1", "block_0_up", "head")
X, Y = small.data(3)


class Interrupt(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            raise KeyboardInterrupt


def copy_values(source, target, name):
    """By name: flags that a file has change the order of variables."""
    values = {name(v): v for v in source}
    assert len(values) == len(source) == len(target)
    for variable in target:
        # Not the buffer, which JAX gives away.
        variable.assign(np.array(values[name(variable)]))


def values(variables):
    return [np.array(v) for v in variables]


def check_equal(variables, expected):
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


def save_as(path, model):
    """Saves a model, or its state; returns what there is besides the file."""
    if path.endswith("tree"):
        return model.get_state_tree(value_format="numpy_array")
    if path.endswith("checkpoint"):
        checkpoint_of(model).write(path)
    elif path.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)


def load_from(path, model, saved):
    """Loads the state of a model."""
    if path.endswith("tree"):
        model.set_state_tree(saved)
    elif path.endswith("checkpoint"):
        checkpoint_of(model).read(path)
    else:
        model.load_weights(path)


def checkpoint_of(model):
    import tensorflow as tf

    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def check_freezes(grades):
    """At step 2, where accumulated batches make two."""
    frozen_at = {c.frozen_at for c in grades.components} - {None}
    assert frozen_at == ({2} if grades.report.steps >= 2 else set())


class Session:
    """A model, and beside it one that takes the plain way."""

    def __init__(self, optimizer, eager, elsewhere):
        self.eager = eager
        self.elsewhere = elsewhere
        self.models = [small.transformer(blocks=1) for _ in range(2)]
        self.compile(optimizer)

    def compile(self, optimizer):
        for model in self.models:
            model.compile(
                OPTIMIZERS[optimizer](), small.loss(), run_eagerly=self.eager
            )
            model.optimizer.build(model.trainable_variables)
        self.optimizer = self.models[0].optimizer
        self.is_exchanged = False

    def fit(self, model, *callbacks):
        model.fit(X, Y, 4, shuffle=False, verbose=0, callbacks=list(callbacks))

    def fit_plain(self):
        for model in self.models:
            self.fit(model)

    def fit_and_freeze_nothing(self):
        grades = GradES(**NEVER, verbose=0)
        self.fit(self.models[0], grades)
        self.fit(self.models[1])
        assert not any(c.frozen_at for c in grades.components)

    def fit_and_freeze(self, what, recompile):
        grades = GradES(**FREEZES[what], recompile=recompile, verbose=0)
        self.fit(self.models[0], grades)
        check_freezes(grades)
        self.copy()

    def interrupt(self, batch):
        """Before a step that freezes, or after it."""
        grades = GradES(**FREEZES["some"], recompile="always", verbose=0)
        with pytest.raises(KeyboardInterrupt):
            self.fit(self.models[0], grades, Interrupt(batch))
        grades.restore()
        self.copy()

    def save_and_load(self, file, in_training):
        """What is loaded is what was saved, though training went on.

        With GradES in training. A file of a model makes a new one, which
        takes its place.
        """
        model, saved = self.models[0], {}
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, file)

            def save(*_):
                saved["by"] = save_as(path, model)
                saved["weights"] = values(model.variables)
                saved["optimizer"] = values(self.optimizer.variables)

            if in_training:
                at = keras.callbacks.LambdaCallback(on_epoch_end=save)
                grades = GradES(**FREEZES["some"], verbose=0)
                self.fit(model, grades, at)
                check_freezes(grades)
            else:
                save()
            self.fit(model)
            if file in MODELS:
                is_whole = file == "m.keras" and not self.is_exchanged
                self.load(path)
                self.check_elsewhere(path)
            else:
                is_whole = True
                load_from(path, model, saved["by"])
        assert not isinstance(self.optimizer, GradESOptimizer)
        model = self.models[0]
        check_equal(model.variables, saved["weights"])
        if is_whole:
            check_equal(self.optimizer.variables, saved["optimizer"])
        self.copy()
        # From here on GradES does not go on from the file.
        self.fit_plain()

    def load(self, path):
        flags = [layer.trainable for layer in self.models[0].layers]
        new = keras.saving.load_model(path)
        assert [layer.trainable for layer in new.layers] == flags
        # An optimizer that was exchanged is not in a file, and HDF5 files
        # have no more of one than its iterations and rate.
        like = [
            type(new.optimizer).from_config(new.optimizer.get_config())
            for _ in self.models
        ]
        optimizers = [new.optimizer, like[1]]
        if path.endswith("m.h5"):
            optimizers = like
        self.models[0] = new
        for model, optimizer in zip(self.models, optimizers):
            model.compile(optimizer, small.loss(), run_eagerly=self.eager)
            optimizer.build(model.trainable_variables)
        self.optimizer = optimizers[0]
        self.is_exchanged = False

    def check_elsewhere(self, path):
        """There it is a model like any other."""
        found = self.elsewhere.load(path, f"{path}.npz")
        model = self.models[0]
        np.testing.assert_allclose(
            found["prediction"],
            keras.ops.convert_to_numpy(model(X)),
            rtol=1e-4,
            atol=1e-5,
        )
        trainable = {v.path for v in model.trainable_variables}
        assert set(found["moved"]) == trainable

    def flip(self, layer, optimizer):
        for model in self.models:
            found = model.get_layer(layer)
            found.trainable = not found.trainable
        self.compile(optimizer)

    def exchange(self, optimizer):
        for model in self.models:
            model.optimizer = OPTIMIZERS[optimizer]()
            model.optimizer.build(model.trainable_variables)
            model.train_function = None
        self.optimizer = self.models[0].optimizer
        self.is_exchanged = True

    def copy(self):
        """From here on the other model takes the plain way."""
        model, plain = self.models
        copy_values(model.variables, plain.variables, lambda v: v.path)
        # Optimizers have numbers in their names.
        copy_values(
            model.optimizer.variables,
            plain.optimizer.variables,
            lambda v: v.path.split("/", 1)[1],
        )

    def check(self):
        model, plain = self.models
        assert model.optimizer is self.optimizer
        assert find_installation(model) is None
        assert not [n for n in Installation.names if n in vars(model)]
        # It trains what its flags say.
        trains, flags = (
            [[v.trainable for v in layer.variables] for layer in m.layers]
            for m in self.models
        )
        assert trains == flags
        by_path = {v.path: v for v in plain.variables}
        for variable in model.variables:
            np.testing.assert_allclose(
                np.array(variable), np.array(by_path[variable.path]), atol=1e-5
            )
        np.testing.assert_allclose(
            *(keras.ops.convert_to_numpy(m(X)) for m in self.models),
            rtol=1e-4,
            atol=1e-5,
        )

    def check_at_the_end(self):
        """One more `fit()` moves all that may, and nothing else."""
        model = self.models[0]
        before = [np.array(v) for v in model.variables]
        self.fit(model)
        for variable, value in zip(model.variables, before):
            has_moved = (np.array(variable) != value).any()
            assert has_moved == variable.trainable, variable.path


optimizers = st.sampled_from(sorted(OPTIMIZERS))
frozen = st.sampled_from(sorted(FREEZES))
ACTIONS = st.one_of(
    st.tuples(st.just("compile"), optimizers),
    st.tuples(st.just("fit_plain")),
    st.tuples(st.just("fit_and_freeze_nothing")),
    st.tuples(
        st.just("fit_and_freeze"), frozen, st.sampled_from(["always", "never"])
    ),
    st.tuples(st.just("interrupt"), st.sampled_from([0, 1, 2])),
    st.tuples(
        st.just("save_and_load"),
        st.sampled_from(FILES),
        st.booleans(),
    ),
    st.tuples(st.just("flip"), st.sampled_from(LAYERS), optimizers),
    st.tuples(st.just("exchange"), optimizers),
)


@pytest.fixture(scope="module")
def elsewhere():
    process = Elsewhere()
    yield process
    process.end()


def go_through(elsewhere, optimizer, eager, actions):
    session = Session(optimizer, eager, elsewhere)
    for name, *arguments in actions:
        getattr(session, name)(*arguments)
        session.check()
    session.check_at_the_end()


def sequences(count, eager, longest):
    def decorate(test):
        test = given(optimizers, eager, st.lists(ACTIONS, max_size=longest))(
            test
        )
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
        return settings(
            max_examples=count,
            deadline=None,
            # The same on each machine; the long ones differ each time.
            derandomize=count < 100,
            suppress_health_check=checks,
        )(test)

    return decorate


# An eager step takes many times as long on the others.
SEQUENCES = 15 if keras.backend.backend() == "torch" else 5


@sequences(SEQUENCES, st.just(True), longest=3)
def test_any_sequence(elsewhere, optimizer, eager, actions):
    go_through(elsewhere, optimizer, eager, actions)


@pytest.mark.long
@sequences(300, st.booleans(), longest=6)
def test_many_sequences(elsewhere, optimizer, eager, actions):
    go_through(elsewhere, optimizer, eager, actions)


def test_one_sequence_of_compiled_steps(elsewhere):
    go_through(
        elsewhere,
        "adam",
        False,
        [
            ("fit_and_freeze_nothing",),
            ("fit_and_freeze", "truncated", "always"),
            ("save_and_load", "m.keras", True),
            ("interrupt", 2),
            ("flip", "block_0_up", "clipped"),
            ("fit_and_freeze_nothing",),
        ],
    )
