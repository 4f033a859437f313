"""What users, loggers and notebooks do around `fit()`."""

import contextlib
import copy
import io
import logging
import pickle
import re
import sys

import keras
import numpy as np
import pytest
import small
from small import fit

import keras_grades
from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades.installation.attached import find_installation
from keras_grades.installation.installation import Installation

pytestmark = pytest.mark.alike

HUGE = 1e30


def compiled(model=None, optimizer=None):
    model = model or small.transformer(blocks=1)
    model.compile(optimizer or keras.optimizers.SGD(0.01, 0.9), small.loss())
    return model


def check_nothing_is_left(model, optimizer):
    assert model.optimizer is optimizer
    assert find_installation(model) is None
    assert not [name for name in Installation.names if name in vars(model)]
    assert all(v.trainable for v in model.trainable_variables)
    assert len(model.trainable_variables) == len(model.variables)


# It is put on as a whole, or not at all.


@pytest.mark.parametrize("path", ["m.h5", "m.keras", "m.weights.h5"])
def test_checkpoints_of_every_format(path, tmp_path):
    model = compiled()
    optimizer = model.optimizer
    save = keras.callbacks.ModelCheckpoint(
        tmp_path / path, save_weights_only="weights" in path
    )
    fit(model, GradES(HUGE, alpha=3, verbose=0), save, epochs=2)
    check_nothing_is_left(model, optimizer)
    fit(model, GradES(HUGE, alpha=3, verbose=0))


@pytest.mark.parametrize("attribute", ["make_train_function", "build"])
def test_nothing_is_left_if_putting_on_fails(attribute, monkeypatch):
    model = compiled()
    optimizer = model.optimizer

    def fails(*args, **kwargs):
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        if attribute == "build":
            patch.setattr(keras_grades.GradESOptimizer, "build", fails)
        else:
            # `fit()` itself makes one before callbacks begin.
            fit(model)
            patch.setattr(type(model), attribute, fails)
            model.make_train_function = lambda force=False: None
        with pytest.raises(RuntimeError, match="on purpose"):
            fit(model, GradES(verbose=0))
    vars(model).pop("make_train_function", None)
    check_nothing_is_left(model, optimizer)
    fit(model, GradES(HUGE, alpha=3, verbose=0))


@pytest.mark.everywhere
@pytest.mark.parametrize("recompile", ["always", "never"])
def test_a_state_tree_has_the_weights_where_they_were(recompile):
    """As `OrbaxCheckpoint` writes it."""
    model, trees = compiled(), []

    def keep(epoch, logs):
        tree = model.get_state_tree(value_format="numpy_array")
        is_flipped = not all(v.trainable for v in model.weights)
        trees.append((tree, small.weights(model), is_flipped))

    grades = GradES(
        {"attention": HUGE, "": 1e-30}, alpha=2, recompile=recompile, verbose=0
    )
    at = keras.callbacks.LambdaCallback(on_epoch_end=keep)
    fit(model, grades, at, epochs=2)
    assert any(c.frozen_at for c in grades.components)
    tree, weights, is_flipped = trees[-1]
    assert is_flipped == (recompile == "always")
    assert not tree["non_trainable_variables"]
    new = small.transformer(blocks=1, seed=1)
    new.set_state_tree({"trainable_variables": tree["trainable_variables"]})
    for actual, expected in zip(small.weights(new), weights):
        np.testing.assert_array_equal(actual, expected)
    # With all of it training goes on.
    new = compiled(new, keras.optimizers.SGD(0.01, 0.9, name="sgd"))
    tree["optimizer_variables"] = {
        name if name == "grades" else "sgd": variables
        for name, variables in tree["optimizer_variables"].items()
    }
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: new.set_state_tree(tree)
    )
    resumed = copy.copy(grades)
    fit(new, resumed, load, epochs=3, initial_epoch=2)
    fit(model, grades, epochs=3, initial_epoch=2)
    frozen_at = [c.frozen_at for c in grades.components]
    assert [c.frozen_at for c in resumed.components] == frozen_at
    assert resumed.report.steps == grades.report.steps == 18
    for actual, expected in zip(small.weights(new), small.weights(model)):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


# It does not fall off without a word.


def compile_again(model):
    compiled(model).optimizer.build(model.trainable_variables)
    model.make_train_function(force=True)


def exchange_the_optimizer(model):
    model.optimizer = keras.optimizers.SGD(0.01)
    model.optimizer.build(model.trainable_variables)


def fit_inside(model):
    # In a callback of its own: the outer `fit()` must know.
    fit(model, batches=1)


@pytest.mark.parametrize(
    "change", [compile_again, exchange_the_optimizer, fit_inside]
)
@pytest.mark.parametrize("when", ["batch", "epoch"])
def test_it_says_when_it_has_fallen_off(change, when):
    model, grades = compiled(), GradES(verbose=0)
    at = small.At(3, change)
    if when == "epoch":
        at = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: epoch == 1 and change(model)
        )
    with pytest.raises(ValueError, match="not on this model any more"):
        fit(model, grades, at, epochs=3)
    grades.restore()
    assert find_installation(model) is None
    assert not isinstance(model.optimizer, keras_grades.GradESOptimizer)
    fit(compiled(model), GradES(HUGE, alpha=2, verbose=0))


# Flags do not stay behind.


@pytest.mark.everywhere
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_step_takes_it_off_at_once(error):
    """Others may use the same layers next, in a model of their own."""
    model = small.transformer(blocks=1)
    steps = []

    def loss(y, prediction):
        # Eager, so it runs in each step.
        steps.append(1)
        if len(steps) == 5:
            raise error
        return small.loss()(y, prediction)

    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    optimizer = model.optimizer
    flags = {"block_0_attention": HUGE, "": 1e-30}
    grades = GradES(flags, alpha=2, recompile="always", verbose=0)
    with pytest.raises(error):
        fit(model, grades)
    assert any(c.frozen_at for c in grades.components)
    check_nothing_is_left(model, optimizer)


def interrupt(model=None):
    raise KeyboardInterrupt


@pytest.mark.everywhere
def test_the_report_of_an_interrupted_run_is_up_to_date():
    """The host looks every eight steps, and reads at the next look."""
    x, y = small.data(100)
    some = {"query": HUGE, "": 1e-30}
    grades = GradES(some, alpha=12, cooldown=5, verbose=0)
    with pytest.raises(KeyboardInterrupt), grades:
        compiled().fit(
            *(x, y, 4),
            epochs=8,
            callbacks=[grades, small.At(21, interrupt)],
            verbose=0,
        )
    assert grades.report.steps == 21
    assert {c.frozen_at for c in grades.components} == {17, None}
    np.testing.assert_array_equal(grades.trace["step"], np.arange(1, 22))


def test_so_is_that_of_a_loop_of_calls_of_one_epoch():
    model = compiled()
    x, y = small.data(250)
    grades = GradES(1e-30, alpha=1, verbose=0)
    with pytest.raises(KeyboardInterrupt), grades:
        for epoch in range(2):
            model.fit(
                *(x, y, 4),
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=[grades, small.At(214, interrupt)][: epoch + 1],
                verbose=0,
            )
    assert grades.report.steps == 464


@pytest.mark.everywhere
def test_so_is_that_of_a_run_that_was_interrupted_in_a_step():
    model, ended = small.transformer(blocks=1), []

    def loss(y, prediction):
        return interrupt() if len(ended) == 13 else small.loss()(y, prediction)

    model.compile("sgd", loss, run_eagerly=True)
    x, y = small.data(100)
    grades = GradES(1e-30, alpha=1, verbose=0)
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ended.append(batch)
    )
    with pytest.raises(KeyboardInterrupt), grades:
        model.fit(x, y, 4, epochs=8, callbacks=[grades, count], verbose=0)
    assert grades.report.steps == 13


# The wrapper stands in for the optimizer.


def test_hyperparameters_are_read_and_set():
    seen = {}

    class Schedule(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            optimizer = self.model.optimizer
            for name in expected:
                seen[name] = getattr(optimizer, name)
            optimizer.weight_decay = 0.5
            optimizer.beta_1 = 0.8
            with pytest.raises(AttributeError, match="no_such_thing"):
                assert optimizer.no_such_thing

    optimizer = keras.optimizers.AdamW(
        1e-3, weight_decay=0.004, clipnorm=1.0, use_ema=True
    )
    expected = {
        "weight_decay": 0.004,
        "clipnorm": 1.0,
        "global_clipnorm": None,
        "beta_1": 0.9,
        "epsilon": 1e-7,
        "use_ema": True,
        "ema_momentum": 0.99,
        "gradient_accumulation_steps": None,
    }
    fit(compiled(optimizer=optimizer), GradES(), Schedule())
    assert seen == expected
    assert optimizer.weight_decay == 0.5
    assert optimizer.beta_1 == 0.8


def test_it_passes_for_the_optimizer_that_it_wraps():
    """Callbacks ask for its class, loggers for its config."""
    seen = {}

    class Log(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            optimizer = self.model.optimizer
            seen["wrapped"] = isinstance(optimizer, GradESOptimizer)
            seen["class"] = isinstance(optimizer, keras.optimizers.SGD)
            seen["other"] = isinstance(optimizer, keras.optimizers.Adam)
            seen["config"] = optimizer.get_config()
            seen["saved"] = keras.saving.serialize_keras_object(optimizer)
            seen["copies"] = [
                copy.deepcopy(optimizer),
                pickle.loads(pickle.dumps(optimizer)),
            ]

    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    fit(compiled(optimizer=optimizer), GradES(), Log())
    assert seen["wrapped"] and seen["class"] and not seen["other"]
    assert seen["config"] == optimizer.get_config()
    assert seen["saved"] == keras.saving.serialize_keras_object(optimizer)
    for copied in seen["copies"]:
        assert type(copied) is type(optimizer)
        assert copied.get_config() == optimizer.get_config()
    # By itself it is what it is.
    model = small.transformer(blocks=1)
    alone = GradESOptimizer(
        keras.optimizers.SGD(), keras_grades.find_components(model)
    )
    assert not isinstance(alone, keras.optimizers.SGD)
    alone.build(model.trainable_variables)
    assert "components" in alone.get_config()


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="It is about Dynamo."
)
def test_dynamo_may_ask_for_what_an_optimizer_does_not_have():
    import torch

    model = small.transformer(blocks=1)
    optimizer = GradESOptimizer(
        keras.optimizers.SGD(), keras_grades.find_components(model)
    )

    def ask():
        return getattr(optimizer, "_parent_path", "nothing")

    compiled = torch.compile(ask, backend="eager", fullgraph=True)
    assert compiled() == ask() == "nothing"


def test_a_weight_decay_that_a_callback_sets_is_used():
    """In eager steps, at once."""

    def trained(*callbacks):
        model = small.transformer(blocks=1)
        model.compile(
            keras.optimizers.AdamW(0.01), small.loss(), run_eagerly=True
        )

        def decay(epoch, logs):
            model.optimizer.weight_decay = 0.5 * epoch

        fit(
            model,
            *callbacks,
            keras.callbacks.LambdaCallback(on_epoch_begin=decay),
            batches=2,
            epochs=3,
        )
        return small.weights(model)

    for a, b in zip(trained(GradES(1e-30)), trained(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_own_attributes_stay_apart():
    """Also if an optimizer has one of the same name."""

    names = "policy", "rule", "total_steps", "components"

    class WithOwn(keras.optimizers.SGD):
        def __init__(self):
            super().__init__(0.01)
            for name in names:
                setattr(self, name, "own")

    optimizer, grades = WithOwn(), GradES(HUGE, alpha=2)
    fit(compiled(optimizer=optimizer), grades)
    assert [getattr(optimizer, name) for name in names] == ["own"] * 4
    assert grades.stopped_step == 2


# Copies, and use without `fit()`.


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, "pickle"])
def test_the_callback_can_be_copied(copied):
    if copied == "pickle":

        def copied(callback):
            return pickle.loads(pickle.dumps(callback))

    arguments = {"tau": HUGE, "alpha": 3, "verbose": 0}
    new = copied(GradES(**arguments))
    with pytest.raises(ValueError, match="nothing to report"):
        assert new.report
    fit(compiled(), new)
    again = copied(new)
    assert again.stopped_step == new.stopped_step == 3
    assert [c.frozen_at for c in again.components] == [3] * 6
    assert [c.shape for c in again.components] == [
        c.shape for c in new.components
    ]
    assert again.report.to_dict() == new.report.to_dict()
    np.testing.assert_array_equal(
        again.trace["statistic"], new.trace["statistic"]
    )
    # It trains on as a new one does.
    fit(compiled(), again)
    assert again.stopped_step == 3


def test_a_copy_in_the_middle_of_training():
    copies, model = [], compiled()
    grades = GradES(HUGE, alpha=3, verbose=0)
    fit(
        model,
        grades,
        small.At(2, lambda _: copies.append(copy.deepcopy(grades))),
    )
    assert grades.stopped_step == 3
    assert [c.frozen_at for c in copies[0].components] == [None] * 6
    check_nothing_is_left(model, model.optimizer)


def test_a_training_loop_of_ones_own():
    model, grades = compiled(), GradES(HUGE, alpha=1, verbose=0)
    callbacks = keras.callbacks.CallbackList([grades], model=model)
    x, y = small.data(2)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for batch in range(2):
        callbacks.on_train_batch_begin(batch)
        logs = model.train_on_batch(
            x[4 * batch :][:4], y[4 * batch :][:4], return_dict=True
        )
        callbacks.on_train_batch_end(batch, logs)
    callbacks.on_epoch_end(0, logs)
    callbacks.on_train_end(logs)
    assert grades.report.steps == 2
    assert [c.frozen_at for c in grades.components] == [1] * 6
    assert grades.total_steps is None


# Manners.


def printed(grades, **arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        fit(compiled(), grades, **arguments)
    return out.getvalue()


def test_it_is_silent_where_fit_is():
    assert printed(GradES()) == ""
    assert "GradES:" in printed(GradES(verbose=1))
    assert "GradES:" in printed(GradES(), verbose=2)


def test_it_logs_where_interactive_logging_is_disabled(caplog):
    keras.config.disable_interactive_logging()
    try:
        with caplog.at_level(logging.INFO, "keras_grades"):
            assert printed(GradES(verbose=1)) == ""
    finally:
        keras.config.enable_interactive_logging()
    assert any("GradES: ended" in message for message in caplog.messages)


def test_what_stands_in_for_stdout_may_not_know_of_terminals(monkeypatch):
    class Written(list):
        write = list.append

        def flush(self):
            pass

    model = compiled()
    grades = GradES(HUGE, alpha=3, verbose=1)
    written = Written()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", written)
        fit(model, grades)
        grades.report.summary()
    assert "GradES: stopped at step 3" in "".join(written)


@pytest.mark.parametrize("verbose", [1, "auto"])
def test_it_does_not_write_into_the_progress_bar(verbose):
    text = printed(GradES(HUGE, alpha=3, verbose=2), verbose=verbose)
    lines = text.replace("\r", "\n").splitlines()
    found = [line for line in lines if "by step 3 " in line]
    # A line for each block.
    assert [line.partition(" 3 ")[2] for line in found] == [
        "6 of 6 components frozen in block_0.",
    ]
    assert all(line.startswith("GradES: ") for line in found)


@pytest.mark.parametrize("verbose", [3, -1, True, "loud", None])
def test_verbose_is_checked(verbose):
    with pytest.raises(ValueError, match="0, 1, 2 or 'auto'"):
        GradES(verbose=verbose)


class Predicts(keras.callbacks.Callback):
    """Looks at what the model has learned, before and after each batch."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.predict(small.data(1)[0], verbose=0)

    def on_train_batch_end(self, batch, logs=None):
        self.model.predict_on_batch(small.data(1)[0])


@pytest.mark.everywhere
def test_predictions_while_it_trains():
    model, plain = compiled(), compiled()
    fit(model, GradES(1e-30), Predicts(), batches=3, epochs=2)
    fit(plain, Predicts(), batches=3, epochs=2)
    assert int(model.optimizer.iterations) == 6
    for a, b in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)


# The plan is compared with what happens.


class OtherOptimizer(keras.Model):
    """Trains with an optimizer of its own, or, here, with none."""

    def train_step(self, *args):
        logs = {"loss": keras.ops.zeros(())}
        return (logs, args[0]) if len(args) > 1 else logs


def test_an_optimizer_that_is_not_used():
    net = small.transformer(blocks=1)
    model = compiled(OtherOptimizer(net.inputs, net.outputs))
    with pytest.warns(UserWarning, match="0 updates.*in 32 batches") as caught:
        fit(model, GradES(), batches=20, epochs=4)
    said = [w for w in caught if "updates" in str(w.message)]
    assert len(said) == 1


class Critic(keras.Model):
    """Makes several updates of the same optimizer a batch."""

    def train_step(self, data):
        for _ in range(3):
            logs = super().train_step(data)
        return logs


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="A step is one update there."
)
def test_several_updates_a_batch(recwarn):
    def warnings_of(grades):
        net = small.transformer(blocks=1)
        model = compiled(Critic(net.inputs, net.outputs))
        fit(model, grades, batches=40, epochs=4)
        said = [str(w.message) for w in recwarn]
        recwarn.clear()
        return [s for s in said if "The plan counts fewer" in s]

    (said,) = warnings_of(GradES())
    assert re.search("9[69] updates of its optimizer in 3[23] batches", said)
    assert not warnings_of(GradES(1e-30, alpha=0.0))
    assert not warnings_of(GradES(1e-30, alpha=10))


@pytest.mark.everywhere
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Eager Keras takes one step."
)
def test_executions_are_longer_than_an_epoch(recwarn):
    model = small.transformer(blocks=1)
    model.compile("adam", small.loss(), steps_per_execution=64)
    fit(model, GradES(), batches=20, epochs=4)
    assert not [w for w in recwarn if "updates" in str(w.message)]


def test_gradients_that_accumulate_are_planned_for(recwarn):
    model = compiled(
        optimizer=keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
    )
    fit(model, GradES(), batches=20, epochs=4)
    assert not [w for w in recwarn if "updates" in str(w.message)]


def test_there_is_no_change_of_a_gradient_before_the_second_step():
    grades = GradES(1.0, monitor="gradient_change", alpha=0, verbose=1)
    assert "nothing freezes before step 2 of 6" in printed(grades)


def test_a_run_that_is_too_short_to_freeze():
    by_rate = GradES(monitor="relative_change", verbose=1)
    assert "nothing can freeze: the first step that may is 10, and 6" in (
        printed(by_rate)
    )
    assert "nothing freezes before step 3 of 6" in printed(
        GradES(HUGE, verbose=1)
    )


# Models of other libraries.


@pytest.mark.parametrize("model", ["tf_keras", "transformers"])
def test_a_model_of_another_library(model):
    """One line says what this library is for, before anything happens."""
    other = type("Model", (), {"__module__": f"{model}.models"})()
    says = rf"Keras 3, KerasHub's included.*type {model}\.models\.Model"
    with pytest.raises(TypeError, match=says):
        GradES().set_model(other)
    with pytest.raises(TypeError, match=says):
        keras_grades.find_components(other)


def test_a_model_of_pytorch():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"not for.*PyTorch.*linear\.Linear"):
        GradES().set_model(torch.nn.Linear(2, 2))


# A model that `fit()` builds.


class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(2, 4)
        self.up = keras.layers.Dense(16, activation="relu")
        self.down = keras.layers.Dense(8)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        x = x + self.attention(x, x)
        x = x + self.down(self.up(x))
        return self.head(keras.ops.mean(x, axis=1))


def unbuilt(kind=Unbuilt, **arguments):
    keras.utils.set_random_seed(0)
    model = kind()
    model.compile(keras.optimizers.Adam(0.01), small.loss(), **arguments)
    return model


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"run_eagerly": True},
        pytest.param(
            {"steps_per_execution": 2},
            marks=pytest.mark.skipif(
                keras.backend.backend() == "torch",
                reason="It must be 1 on PyTorch.",
            ),
        ),
    ],
    ids=str,
)
def test_a_model_that_fit_builds(arguments):
    built, late = unbuilt(**arguments), unbuilt(**arguments)
    keras.utils.set_random_seed(1)
    built(small.data(1)[0])
    assert built.built and not late.built
    runs = []
    for model in (built, late):
        # Attention freezes at step 3.
        grades = GradES({"attention": HUGE, "": 1e-30}, alpha=3, verbose=0)
        optimizer = model.optimizer
        validation = small.data(2)
        keras.utils.set_random_seed(1)
        fit(model, grades, epochs=2, validation_data=validation)
        check_nothing_is_left(model, optimizer)
        runs.append([c.frozen_at for c in grades.components])
        assert grades.report.steps == int(optimizer.iterations) == 12
    assert runs[0] == runs[1] and 3 in runs[0]
    for actual, expected in zip(small.weights(late), small.weights(built)):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.everywhere
def test_a_model_that_fit_builds_trains_as_without_it():
    plain, model = unbuilt(), unbuilt()
    keras.utils.set_random_seed(1)
    fit(plain)
    keras.utils.set_random_seed(1)
    fit(model, GradES(1e-30, alpha=2, verbose=0))
    for actual, expected in zip(small.weights(model), small.weights(plain)):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.everywhere
def test_an_interruption_before_the_first_batch_builds_it():
    model, grades = unbuilt(), GradES(verbose=0)
    optimizer = model.optimizer

    def interrupt(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, grades, small.At(0, interrupt))
    fit(model)
    check_nothing_is_left(model, optimizer)
    assert int(optimizer.iterations) == 6
    assert not grades.components or not any(
        c.frozen_at for c in grades.components
    )


@pytest.mark.everywhere
def test_a_model_that_cannot_be_built():
    class Fails(Unbuilt):
        def call(self, x):
            raise ValueError("on purpose")

    model = unbuilt(Fails)
    with pytest.raises(ValueError, match="on purpose"):
        fit(model, GradES(verbose=0))
    assert find_installation(model) is None
    assert not [name for name in Installation.names if name in vars(model)]


@pytest.mark.everywhere
def test_a_model_is_unfrozen_step_by_step():
    """As the error says that one can."""
    model, grades = compiled(), GradES(1e-30, alpha=1, verbose=0)
    below = model.get_layer("block_0_attention")
    below.trainable = False
    compiled(model)
    fit(model, grades)
    assert not any("attention" in c.name for c in grades.components)
    with pytest.raises(ValueError, match="unfreeze a model step by step"):
        fit(
            model,
            grades,
            small.At(2, lambda model: setattr(below, "trainable", True)),
            epochs=2,
        )
    grades.restore()
    compiled(model)
    fit(model, grades, epochs=2, initial_epoch=1)
    assert any("attention" in c.name for c in grades.components)
    assert grades.report.steps == 6


@pytest.mark.everywhere
def test_a_part_of_a_multi_optimizer_that_trains_nothing():
    """Keras never builds it: there are no averages."""
    optimizers = keras.optimizers
    model = compiled(
        optimizer=optimizers.MultiOptimizer(
            optimizers.OptimizerMap(
                optimizers.AdamW(use_ema=True), {".*": optimizers.SGD(0.05)}
            )
        )
    )
    grades = GradES(HUGE, alpha=3, recompile="always", max_frozen_ratio=1.0)
    fit(model, grades, epochs=1)
    assert grades.stopped_step == 3


@pytest.mark.everywhere
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="it is about TensorFlow"
)
def test_a_train_step_that_is_a_function_of_tensorflow():
    """It has traces of its own, of the optimizer that it was called with."""
    import tensorflow as tf

    class Model(keras.Model):
        @tf.function
        def train_step(self, data):
            return super().train_step(data)

    plain = small.transformer(blocks=1)
    model = Model(plain.inputs, plain.outputs)
    model.compile(keras.optimizers.SGD(0.05), small.loss())
    x, y = small.data(8)
    model.fit(x, y, 4, verbose=0)
    grades = GradES(HUGE, alpha=3, recompile="always", verbose=0)
    model.fit(x, y, 4, callbacks=[grades], verbose=0)
    assert grades.stopped_step == grades.report.steps == 3
    before = small.weights(model)
    model.fit(x, y, 4, verbose=0)
    for a, b in zip(before, small.weights(model)):
        assert (a != b).any()


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="it is about PyTorch"
)
@pytest.mark.parametrize("restore_trainable", [True, False])
def test_what_was_frozen_in_the_way_of_pytorch_stays_so(restore_trainable):
    model = small.transformer()
    model.compile(keras.optimizers.SGD(0.05), small.loss())
    for parameter in model.get_layer("block_0_up").parameters():
        parameter.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    x, y = small.data(8)
    grades = GradES(restore_trainable=restore_trainable, verbose=0)
    model.fit(x, y, 4, epochs=2, callbacks=[grades], verbose=0)
    assert all(c.frozen_at for c in grades.components)
    after = [p.requires_grad for p in model.parameters()]
    if restore_trainable:
        assert after == before
    assert not any(
        p.requires_grad for p in model.get_layer("block_0_up").parameters()
    )
