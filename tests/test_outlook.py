"""Learning-rate schedules are read ahead: before a rise nothing is final."""

import keras
import numpy as np
import pytest
import small
from keras.optimizers import schedules
from markers import long_on

import keras_grades
from keras_grades import GradES
from keras_grades.keras_internals.optimizers import ScheduleCalls
from keras_grades.keras_internals.optimizers import schedules_of
from keras_grades.outlook import Outlook
from keras_grades.outlook import last_rise
from keras_grades.outlook import read_schedule

pytestmark = pytest.mark.alike


def last_rise_of(schedule, until):
    steps, rates, _ = read_schedule(ScheduleCalls(schedule), until)
    return last_rise(steps, rates)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.CosineDecay(0.1, 100), 0),
        (schedules.ExponentialDecay(0.1, 10, 0.9), 0),
        # Step 26 is the first with the whole rate.
        (
            schedules.CosineDecay(0.0, 75, warmup_target=0.1, warmup_steps=25),
            26,
        ),
        # Cycles begin at steps 1, 31, 61 and 91.
        (schedules.CosineDecayRestarts(0.1, 30), 91),
        (schedules.PiecewiseConstantDecay([10, 40], [0.1, 0.01, 0.05]), 42),
        (schedules.PiecewiseConstantDecay([10, 40], [0.1, 0.05, 0.01]), 0),
    ],
)
def test_last_rise(schedule, expected):
    assert last_rise_of(schedule, 100) == expected
    rates = [float(schedule(step)) for step in range(100)]
    by_eye = [s for s in range(1, 100) if rates[s] > rates[s - 1] + 1e-4]
    assert expected == (by_eye[-1] + 1 if by_eye else 0)


def test_a_long_run_is_read_in_part():
    schedule = schedules.CosineDecayRestarts(0.1, 30_000)
    found = last_rise_of(schedule, 100_000)
    assert 90_000 <= found <= 90_000 + 100_000 / 500


class Counted(schedules.CosineDecayRestarts):
    calls = 0

    def __call__(self, step):
        self.calls += 1
        return super().__call__(step)


@pytest.mark.everywhere
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="It compiles nothing."
)
def test_a_schedule_is_traced_and_not_called_for_each_step():
    """On JAX each call of one that branches compiles, for 0.2 s."""
    schedule = Counted(0.1, 30)
    assert last_rise_of(schedule, 100) == 91
    assert schedule.calls <= 3


class OfPython(schedules.LearningRateSchedule):
    """It cannot be traced."""

    def __call__(self, step):
        return 0.1 if int(step) < 30 else 0.01

    def get_config(self):
        return {}


def test_a_schedule_that_cannot_be_traced_trains_eagerly():
    """As it does without GradES."""
    assert last_rise_of(OfPython(), 60) == 0
    model = small.transformer(blocks=1)
    optimizer = keras.optimizers.SGD(OfPython())
    model.compile(optimizer, small.loss(), run_eagerly=True)
    grades = GradES(verbose=0)
    x, y = small.data(10)
    model.fit(x, y, 4, epochs=6, callbacks=[grades], verbose=0)
    assert grades.report.settings["monitor"] == "relative_change"


def test_a_schedule_is_read_only_for_a_monitor_that_goes_by_the_rate():
    schedule = Counted(0.1, 30)
    optimizer = keras.optimizers.SGD(schedule)
    model = small.transformer(blocks=1)
    components = keras_grades.find_components(model)

    def wrap(*tau):
        return keras_grades.GradESOptimizer(
            optimizer, components, *tau, alpha=2, total_steps=100
        )

    assert wrap(1.0).rule.grace_steps == 2
    assert not schedule.calls
    assert wrap().rule.grace_steps == 91


def test_a_schedule_of_unknown_length_may_decay():
    schedule = schedules.CosineDecay(0.1, 100)
    calls = [ScheduleCalls(schedule)]
    assert Outlook(None).with_rates(calls).decays
    assert not Outlook(None).with_rates([]).decays
    assert Outlook(100).with_rates(calls).decays


@pytest.mark.parametrize(
    ("schedule", "decays"),
    [
        (schedules.CosineDecay(0.1, 100), True),
        (schedules.CosineDecay(0.1, 100, alpha=0.9), False),
        (schedules.PolynomialDecay(0.1, 100), True),
        # Its highest rate is yet to come.
        (
            schedules.CosineDecay(
                0.0, 90, 0.0, warmup_target=0.1, warmup_steps=9
            ),
            True,
        ),
        (schedules.ExponentialDecay(0.1, 100, 0.9), False),
    ],
)
def test_a_plan_may_be_shorter_than_its_schedule(schedule, decays):
    """As that of each call of `fit()` in a loop."""
    outlook = Outlook(10).with_rates([ScheduleCalls(schedule)])
    assert outlook.decays == decays
    assert outlook.last_rise <= 10


class Numbers(schedules.LearningRateSchedule):
    """The rate is the number that it is called with, and one."""

    def __call__(self, step):
        return keras.ops.cast(step, "float32") + 1

    def get_config(self):
        return {}


@pytest.mark.everywhere
@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize("earlier", [0, 7])
def test_rates_are_read_where_the_optimizer_will_be(every, earlier):
    optimizer = keras.optimizers.SGD(
        Numbers(), gradient_accumulation_steps=every
    )
    weight = keras.Variable(np.zeros(1, "float32"))

    def updates(batches):
        """What a gradient of 1 moves: the rate."""
        moves = []
        for _ in range(batches):
            before = float(keras.ops.sum(weight))
            optimizer.apply([keras.ops.ones((1,))], [weight])
            moves.append(before - float(keras.ops.sum(weight)))
        return [move for move in moves if move]

    updates(earlier)
    (calls,) = schedules_of(optimizer)
    steps, rates, _ = read_schedule(calls, 5)
    assert steps.tolist() == [1, 2, 3, 4, 5]
    taken = updates(2 * (every or 1))
    # In the middle of a run they are the same.
    assert schedules_of(optimizer, len(taken)) == [calls]
    taken += updates(3 * (every or 1))
    assert rates.tolist() == taken


def test_a_plan_follows_an_optimizer_that_was_loaded():
    rises = schedules.PiecewiseConstantDecay([20], [0.01, 0.1])
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.SGD(rises), small.loss())

    class Load(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.iterations.assign(15)

    x, y = small.data(10)
    grades = GradES(monitor="relative_change")
    model.fit(x, y, 4, verbose=0, callbacks=[grades, Load()])
    # Number 21, the first with the whole rate, is that of step 7.
    assert grades.report.settings["grace_steps"] == 7


def test_schedules_of_an_optimizer():
    """`learning_rate` is the rate of the moment; Keras keeps more."""
    schedule = schedules.CosineDecay(0.1, 100)
    calls = [ScheduleCalls(schedule)]
    assert schedules_of(keras.optimizers.Adam(schedule)) == calls
    assert schedules_of(keras.optimizers.Adam(0.1)) == []
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.SGD(0.1),
            {".*up.*": keras.optimizers.SGD(schedule)},
        )
    )
    several.build(small.transformer(blocks=1).trainable_variables)
    assert schedules_of(several) == calls


def fit(grades, schedule, epochs):
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.Adam(schedule), small.loss())
    x, y = small.data(25)
    model.fit(x, y, 4, epochs=epochs, verbose=0, callbacks=[grades])
    return grades


@long_on("jax", "tensorflow")
def test_nothing_is_final_before_a_warm_restart():
    # Each to half of the rate before: it freezes in the last one.
    restarts = schedules.CosineDecayRestarts(0.01, 50, t_mul=1.0, m_mul=0.5)
    grades = fit(GradES(monitor="relative_change"), restarts, epochs=8)
    assert grades.report.settings["grace_steps"] == 151
    frozen_at = [c.frozen_at for c in grades.components]
    assert all(step > 151 for step in frozen_at)
    # Without the restarts it freezes in the one decay that there is.
    once = fit(
        GradES(monitor="relative_change"),
        schedules.CosineDecay(0.01, 50),
        epochs=8,
    )
    assert all(0 < c.frozen_at < 151 for c in once.components)


def test_the_rule_of_the_paper_does_not_go_by_the_rate():
    restarts = schedules.CosineDecayRestarts(0.01, 50, t_mul=1.0)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.Adam(restarts),
        keras_grades.find_components(small.transformer(blocks=1)),
        tau=1.0,
        alpha=7,
        total_steps=200,
    )
    assert optimizer.rule.grace_steps == 7
