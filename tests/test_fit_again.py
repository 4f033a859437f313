"""Several calls of `fit()` in a row, with one callback."""

import keras
import numpy as np
import pytest
import small

import keras_grades
from keras_grades import GradES
from keras_grades.installation.attached import find_installation

pytestmark = pytest.mark.alike

HUGE = 1e30
# The attention freezes at step 5, in the middle of an epoch of 4 steps; the
# rest never.
SOME = {"attention": HUGE, "": 1e-30}
STEPS = 4
IS_COMPILED = keras.backend.backend() != "torch"


class Loss(keras.losses.SparseCategoricalCrossentropy):
    """Counts how often it is traced: in compiled steps, once a compilation."""

    def __init__(self):
        super().__init__(from_logits=True)
        self.traces = 0

    def call(self, y_true, y_pred):
        self.traces += 1
        return super().call(y_true, y_pred)


def compiled(optimizer=None):
    model = small.transformer(blocks=1)
    model.compile(optimizer or keras.optimizers.SGD(0.01, 0.9), Loss())
    return model


def fit(model, grades, first, last, batches=STEPS, **arguments):
    x, y = small.data(batches)
    return model.fit(
        x,
        y,
        4,
        epochs=last,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=[grades],
        **arguments,
    )


def one_epoch_each(model, grades, epochs):
    for epoch in range(epochs):
        fit(model, grades, epoch, epoch + 1)


def check_same_run(model, grades, other_model, other):
    frozen = [c.frozen_at for c in other.components]
    assert [c.frozen_at for c in grades.components] == frozen
    assert grades.stopped_step == other.stopped_step
    assert grades.report.steps == other.report.steps
    for name in ("step", "statistic"):
        np.testing.assert_array_equal(grades.trace[name], other.trace[name])
    for a, b in zip(small.weights(model), small.weights(other_model)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "arguments",
    [
        {"tau": SOME, "alpha": 5, "recompile": "always"},
        {"tau": SOME, "alpha": 2, "cooldown": 5},
        {"monitor": "relative_change"},
        *(
            pytest.param(arguments, marks=pytest.mark.long)
            for arguments in [
                {"tau": SOME, "alpha": 5, "recompile": "never"},
                {"tau": SOME, "alpha": 3, "monitor": "weight_change"},
                {"tau": SOME, "alpha": 5, "monitor": "gradient_change"},
                {"tau": HUGE, "alpha": 6, "patience": 1},
            ]
        ),
    ],
    ids=str,
)
def test_a_loop_of_one_epoch_each_is_one_run(arguments):
    whole, in_parts = compiled(), compiled()
    grades, again = GradES(**arguments), GradES(**arguments)
    fit(whole, grades, 0, 5)
    optimizer = in_parts.optimizer
    one_epoch_each(in_parts, again, 5)
    if "tau" in arguments:
        assert any(c.frozen_at for c in grades.components)
    check_same_run(in_parts, again, whole, grades)
    assert in_parts.optimizer is optimizer
    assert find_installation(in_parts) is None
    assert len(in_parts.trainable_variables) == len(in_parts.variables)


@pytest.mark.everywhere
@pytest.mark.skipif(not IS_COMPILED, reason="Eager steps trace each time.")
@pytest.mark.parametrize("recompile", ["never", "always"])
def test_it_compiles_once(recompile):
    model = compiled()
    grades = GradES(SOME, alpha=5, recompile=recompile)
    traces = []
    for epoch in range(4):
        fit(model, grades, epoch, epoch + 1)
        traces.append(model.loss.traces)
    # The last epoch is not known: a rebuild may pay in the next ones.
    assert grades._run.rebuilder._policy.total_steps is None
    # It freezes in the second epoch.
    assert (traces[1] > traces[0]) == (recompile == "always")
    assert traces[1] == traces[2] == traces[3]
    compilations = grades.report.to_dict()["timing"]["compilations"]
    assert len(compilations) == 1 + (recompile == "always")


def test_it_takes_no_step_once_it_has_stopped():
    model, grades = compiled(), GradES(HUGE, alpha=5)
    one_epoch_each(model, grades, 2)
    assert grades.stopped_step == 5
    weights = small.weights(model)
    fit(model, grades, 2, 3)
    for a, b in zip(small.weights(model), weights):
        np.testing.assert_array_equal(a, b)
    assert grades.report.steps == grades.stopped_step == 5


def test_the_data_may_change():
    model, grades = compiled(), GradES(SOME, alpha=8)
    fit(model, grades, 0, 1)
    fit(model, grades, 1, 2, batches=6)
    assert grades.total_steps == grades.report.steps == 10
    assert {c.frozen_at for c in grades.components} == {8, None}


def test_it_goes_on_after_an_interruption():
    model, grades = compiled(), GradES(SOME, alpha=5)
    x, y = small.data(STEPS)

    def interrupt(batch, logs):
        if batch == 2 and grades.report.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop = keras.callbacks.LambdaCallback(on_train_batch_begin=interrupt)
        model.fit(
            x,
            y,
            4,
            epochs=3,
            verbose=0,
            shuffle=False,
            callbacks=[grades, stop],
        )
    # At two steps of the second epoch.
    fit(model, grades, 1, 3)
    assert {c.frozen_at for c in grades.components} == {5, None}
    assert grades.report.steps == 6 + 8


def test_a_schedule_that_only_later_decays_changes_no_monitor():
    """Each call reads it from where it is: in the last it has fallen."""
    model = compiled(
        keras.optimizers.Adam(
            keras.optimizers.schedules.PiecewiseConstantDecay(
                [4 * STEPS], [0.01, 0.0001]
            )
        )
    )
    grades = GradES()
    one_epoch_each(model, grades, 6)
    # The first call settles by its plan, and is not gone on with.
    assert len(grades.trace["step"]) == 5 * STEPS
    settings = grades.report.to_dict()["settings"]
    assert settings["monitor"] == "transfer"


@pytest.mark.parametrize("is_raised", [True, False])
def test_a_call_that_never_begins_is_passed_over(is_raised):
    model, grades = compiled(), GradES(SOME, alpha=2)
    fit(model, grades, 0, 1)
    if is_raised:

        def fail(logs=None):
            raise RuntimeError("no disk")

        x, y = small.data(STEPS)
        fails = keras.callbacks.LambdaCallback(on_train_begin=fail)
        with pytest.raises(RuntimeError, match="no disk"):
            model.fit(x, y, 4, verbose=0, callbacks=[grades, fails])
    else:
        fit(model, grades, 1, 1)
    fit(model, grades, 1, 2)
    assert grades.report.steps == 2 * STEPS
    assert {c.frozen_at for c in grades.components} == {2, None}


def test_a_call_of_unknown_length_has_no_deadline():
    """Also after one that had a plan, in the middle of which it stopped."""
    model, grades = compiled(), GradES(horizon=36)
    x, y = small.data(STEPS)

    def stop(batch, logs):
        model.stop_training = True

    stops = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    model.fit(x, y, 4, epochs=3, verbose=0, callbacks=[grades, stops])
    deadline = grades._run.optimizer.rule.criterion.deadline
    assert deadline == 10
    batches = small.batches(x, y) * 20
    model.fit(
        (batch for batch in batches),
        epochs=2,
        initial_epoch=1,
        verbose=0,
        callbacks=[grades],
    )
    assert grades.report.steps == 1 + len(batches)
    assert grades._run.optimizer.rule.criterion.deadline is None
    assert {c.frozen_at for c in grades.components} == {None}


# What begins anew.


def begins_anew(model, grades, first, last, **arguments):
    fit(model, grades, first, last, **arguments)
    steps = STEPS * (last - first)
    return grades.report.steps == steps and grades.total_steps == steps


def test_the_first_epoch_begins_anew():
    model, grades = compiled(), GradES(SOME, alpha=2)
    fit(model, grades, 0, 1)
    assert begins_anew(model, grades, 0, 2)
    assert {c.frozen_at for c in grades.components} == {2, None}


def test_a_new_instance_begins_anew():
    model = compiled()
    fit(model, GradES(SOME, alpha=2), 0, 1)
    assert begins_anew(model, GradES(SOME, alpha=2), 1, 2)


def test_another_policy_begins_anew():
    model, grades = compiled(), GradES(SOME, alpha=2)
    fit(model, grades, 0, 1)
    grades.policy = keras_grades.policy.FreezePolicy(tau=1e-30, alpha=2)
    assert begins_anew(model, grades, 1, 2)
    assert {c.frozen_at for c in grades.components} == {None}


def test_another_model_begins_anew():
    grades = GradES(SOME, alpha=2)
    fit(compiled(), grades, 0, 1)
    assert begins_anew(compiled(), grades, 1, 2)


def test_other_flags_begin_anew():
    model, grades = compiled(), GradES(SOME, alpha=2)
    fit(model, grades, 0, 1)
    model.get_layer("block_0_up").trainable = False
    model.compile(keras.optimizers.Adam(0.01), Loss())
    assert begins_anew(model, grades, 1, 2)
    assert len(grades.components) == 5


def test_a_model_that_was_compiled_again_begins_anew():
    """Also with the same optimizer: the loss is another one."""
    optimizer, grades = keras.optimizers.Adam(0.01), GradES(SOME, alpha=2)
    model = compiled(optimizer)
    fit(model, grades, 0, 1)
    model.compile(optimizer, Loss())
    assert begins_anew(model, grades, 1, 2)
    assert model.loss.traces


def test_a_schedule_that_rises_later_is_read_ahead():
    def rises(step):
        return keras.ops.where(step < 12, 0.001, 0.01)

    class Rises(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return rises(keras.ops.cast(step, "float32"))

        def get_config(self):
            return {}

    model = compiled(keras.optimizers.SGD(Rises()))
    grades = GradES(monitor="relative_change")
    fit(model, grades, 0, 1)
    assert grades.report.settings["grace_steps"] == 0
    fit(model, grades, 1, 5)
    # Steps count from 1, schedules from 0.
    assert grades.report.settings["grace_steps"] == 13
    assert grades.report.steps > 13
