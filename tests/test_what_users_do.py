"""Whatever users do around `fit()`, in any order, the model stays theirs."""

import os
import tempfile

import keras
import numpy as np
import pytest
import small
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades.rebuild.attached import find_installation
from keras_grades.rebuild.installation import Installation

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


def check_freezes(grades):
    """At step 2, where accumulated batches make two."""
    frozen_at = {c.frozen_at for c in grades.components} - {None}
    assert frozen_at == ({2} if grades.report.steps >= 2 else set())


class Session:
    """A model, and beside it one that takes the plain way."""

    def __init__(self, optimizer, eager):
        self.eager = eager
        self.models = [small.transformer(blocks=1) for _ in range(2)]
        self.compile(optimizer)

    def compile(self, optimizer):
        for model in self.models:
            model.compile(
                OPTIMIZERS[optimizer](), small.loss(), run_eagerly=self.eager
            )
            model.optimizer.build(model.trainable_variables)
        self.optimizer = self.models[0].optimizer

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

    def save_and_load(self, path, in_training):
        """With GradES in training; a new model takes its place."""
        model = self.models[0]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, path)

            def save(*_):
                if path.endswith(".weights.h5"):
                    model.save_weights(path)
                else:
                    model.save(path)

            if in_training:
                at = keras.callbacks.LambdaCallback(on_epoch_end=save)
                grades = GradES(**FREEZES["some"], verbose=0)
                self.fit(model, grades, at)
                check_freezes(grades)
            else:
                save()
            if path.endswith(".weights.h5"):
                model.load_weights(path)
            else:
                self.load(path)
        assert not isinstance(self.optimizer, GradESOptimizer)
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
        st.sampled_from(["m.keras", "m.h5", "m.weights.h5"]),
        st.booleans(),
    ),
    st.tuples(st.just("flip"), st.sampled_from(LAYERS), optimizers),
    st.tuples(st.just("exchange"), optimizers),
)


def go_through(optimizer, eager, actions):
    session = Session(optimizer, eager)
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


@sequences(30, st.just(True), longest=3)
def test_any_sequence(optimizer, eager, actions):
    go_through(optimizer, eager, actions)


@pytest.mark.long
@sequences(300, st.booleans(), longest=6)
def test_many_sequences(optimizer, eager, actions):
    go_through(optimizer, eager, actions)


def test_one_sequence_of_compiled_steps():
    go_through(
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
