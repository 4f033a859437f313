"""Learning-rate schedules are read ahead: before a rise nothing is final."""

import keras
import pytest
import small
from keras.optimizers import schedules

import keras_grades
from keras_grades import GradES
from keras_grades.keras_internals.optimizers import schedules_of
from keras_grades.outlook import Outlook
from keras_grades.outlook import last_rise
from keras_grades.outlook import read_schedule


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
    assert last_rise(*read_schedule(schedule, 100)) == expected
    rates = [float(schedule(step)) for step in range(100)]
    by_eye = [s for s in range(1, 100) if rates[s] > rates[s - 1] + 1e-4]
    assert expected == (by_eye[-1] + 1 if by_eye else 0)


def test_a_long_run_is_read_in_part():
    schedule = schedules.CosineDecayRestarts(0.1, 30_000)
    found = last_rise(*read_schedule(schedule, 100_000))
    assert 90_000 <= found <= 90_000 + 100_000 / 500


class Counted(schedules.CosineDecayRestarts):
    calls = 0

    def __call__(self, step):
        self.calls += 1
        return super().__call__(step)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="It compiles nothing."
)
def test_a_schedule_is_traced_and_not_called_for_each_step():
    """On JAX each call of one that branches compiles, for 0.2 s."""
    schedule = Counted(0.1, 30)
    assert last_rise(*read_schedule(schedule, 100)) == 91
    assert schedule.calls <= 3


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
    outlook = Outlook(None)
    assert outlook.with_rates([schedule], None).decays
    assert not outlook.with_rates([], None).decays
    assert outlook.with_rates([schedule], 100).decays
    assert not outlook.with_rates([schedule], 10).decays


def test_schedules_of_an_optimizer():
    """`learning_rate` is the rate of the moment; Keras keeps more."""
    schedule = schedules.CosineDecay(0.1, 100)
    assert schedules_of(keras.optimizers.Adam(schedule)) == [schedule]
    assert schedules_of(keras.optimizers.Adam(0.1)) == []
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.SGD(0.1),
            {".*up.*": keras.optimizers.SGD(schedule)},
        )
    )
    several.build(small.transformer(blocks=1).trainable_variables)
    assert schedules_of(several) == [schedule]


def fit(grades, schedule, epochs):
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.Adam(schedule), small.loss())
    x, y = small.data(25)
    model.fit(x, y, 4, epochs=epochs, verbose=0, callbacks=[grades])
    return grades


def test_nothing_is_final_before_a_warm_restart():
    restarts = schedules.CosineDecayRestarts(0.01, 50, t_mul=1.0)
    grades = fit(GradES(monitor="relative_change"), restarts, epochs=8)
    assert grades.report.settings["grace_steps"] == 151
    frozen_at = [c.frozen_at for c in grades.components]
    assert all(step is None or step > 151 for step in frozen_at)
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
