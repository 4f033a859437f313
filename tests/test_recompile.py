"""When the train step is rebuilt: the rule, and what it promises."""

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades.component import Component
from keras_grades.recompile import HESITATION
from keras_grades.recompile import Recompile
from keras_grades.recompile import SavingEstimate
from keras_grades.recompile import is_worth_it


def seconds_lost(cost, saving, planned, ran):
    """What the rule loses in a run, and the best choice in hindsight."""
    lost = 0.0
    for step in range(ran):
        if is_worth_it(cost, saving, planned - step, lost):
            lost += cost
            break
        lost += saving
    return lost, min(cost, saving * ran)


costs = st.floats(0.1, 100)
savings = st.floats(0.001, 10)
lengths = st.integers(1, 400)


@settings(max_examples=300, deadline=None)
@given(cost=costs, saving=savings, planned=lengths)
def test_close_to_the_best_if_training_goes_as_planned(cost, saving, planned):
    lost, best = seconds_lost(cost, saving, planned, planned)
    # Steps are whole: it may hesitate for one more.
    assert lost <= (1 + HESITATION) * best + saving + 1e-6


@settings(max_examples=300, deadline=None)
@given(cost=costs, saving=savings, planned=lengths, stopped=lengths)
def test_bounded_whenever_training_stops(cost, saving, planned, stopped):
    lost, best = seconds_lost(cost, saving, planned, min(planned, stopped))
    assert lost <= (1 + 1 / HESITATION) * best + saving + 1e-6


def test_never_worth_it():
    assert not is_worth_it(cost=10, saving=0.1, remaining=100, lost=1e9)
    assert not is_worth_it(cost=0, saving=0, remaining=100, lost=0)
    assert not is_worth_it(cost=10, saving=-1, remaining=100, lost=1e9)


def test_waits_for_a_share_of_the_cost():
    arguments = {"cost": 8, "saving": 1, "remaining": 100}
    assert not is_worth_it(lost=8 * HESITATION - 0.1, **arguments)
    assert is_worth_it(lost=8 * HESITATION, **arguments)


def test_estimate_counts_products():
    estimate = SavingEstimate(parameters=100)
    # Half of what counting says, until something is known: 30 of 300.
    assert estimate.seconds(30, step_seconds=2.0) == pytest.approx(0.1)


def test_estimate_learns_from_rebuilds():
    estimate = SavingEstimate(parameters=100)
    for _ in range(20):
        estimate.observe(30, before=2.0, after=1.84)  # 0.16, not 0.2
    assert estimate.seconds(30, 2.0) == pytest.approx(0.16, rel=1e-3)
    for _ in range(20):
        estimate.observe(30, before=2.0, after=2.1)
    assert estimate.seconds(30, 2.0) == pytest.approx(0.0, abs=1e-3)


class Weight:
    shape = (10, 10)


def components(number):
    return [
        Component(str(i), "query", "block", (Weight(),)) for i in range(number)
    ]


def recompile(mode, total_steps=1000, rebuild_is_free=False):
    policy = Recompile(mode, 300, total_steps, rebuild_is_free)
    policy.compiled(step=1, seconds=10.0)
    policy.ran(steps=10, seconds=10.0, pending=[])
    return policy


@pytest.mark.parametrize(
    ("mode", "due"),
    [
        ("never", [False, False, False]),
        ("always", [True, True, True]),
        (2, [False, True, True]),
    ],
)
def test_modes(mode, due):
    policy = recompile(mode)
    assert [policy.is_due(10, components(n)) for n in (1, 2, 3)] == due
    assert not policy.is_due(10, [])


def test_what_is_free_happens_at_once():
    assert recompile("auto", rebuild_is_free=True).is_due(10, components(1))
    assert not recompile("never", rebuild_is_free=True).is_due(
        10, components(1)
    )


def test_auto_rebuilds_when_it_pays():
    # All of 300 parameters: half of a third of a step of a second.
    policy, pending = recompile("auto"), components(3)
    assert not policy.is_due(10, pending)  # Nothing lost yet.
    policy.ran(steps=14, seconds=14.0, pending=pending)
    assert not policy.is_due(24, pending)
    policy.ran(steps=2, seconds=2.0, pending=pending)
    assert policy.is_due(26, pending)  # 16 * 1/6 > 10 / 4.
    assert not policy.is_due(950, pending)  # 50 * 1/6 < 10.


def test_auto_with_an_unknown_length():
    policy, pending = recompile("auto", total_steps=None), components(3)
    policy.ran(steps=16, seconds=16.0, pending=pending)
    assert policy.is_due(10**6, pending)


def test_keeps_the_time():
    policy, frozen = recompile("always"), components(3)
    policy.rebuilt(frozen)
    policy.compiled(step=20, seconds=8.0)
    policy.ran(steps=10, seconds=8.0, pending=[])
    timing = policy.timing()
    assert timing["compilations"] == [
        {
            "step": 1,
            "seconds": 10.0,
            "frozen": 0,
            "step_seconds_before": None,
            "step_seconds_after": 1.0,
        },
        {
            "step": 20,
            "seconds": 8.0,
            "frozen": 3,
            "step_seconds_before": 1.0,
            "step_seconds_after": 0.8,
        },
    ]
    assert timing["seconds_saved_measured"] == pytest.approx(2.0)
    assert timing["seconds_saved_estimated"] > 0
