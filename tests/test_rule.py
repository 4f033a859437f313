"""The rule, as a pure function and as arguments."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades.component import Component
from keras_grades.rule import Rule
from keras_grades.rule import decide
from keras_grades.rule import share_of_update

NAN, INF = float("nan"), float("inf")


def freeze_steps(rows, tau, grace_steps, patience, cooldown=0):
    """Steps through `decide`; the freeze step of each component."""
    n = len(rows[0])
    below, converged_at, frozen_at = np.zeros((3, n), "int32")
    for t, row in enumerate(rows, start=1):
        below, converged_at, frozen_at = decide(
            keras.ops.array(row, "float32"),
            keras.ops.convert_to_tensor(below),
            keras.ops.convert_to_tensor(converged_at),
            keras.ops.convert_to_tensor(frozen_at),
            t,
            keras.ops.array(tau, "float32"),
            grace_steps=grace_steps,
            patience=patience,
            interval=1,
            cooldown=cooldown,
        )
    return keras.ops.convert_to_numpy(frozen_at).tolist()


def test_freezes_at_the_first_step_below_tau():
    rows = [[3, 1], [2, 3], [0.5, 2], [2, 0.9]]
    assert freeze_steps(rows, [1, 1], 0, 0) == [3, 4]


def test_tau_itself_is_not_below_tau():
    assert freeze_steps([[1.0], [1.0]], [1.0], 0, 0) == [0]


def test_nothing_freezes_before_the_grace_period_ends():
    assert freeze_steps([[0.0]] * 9, [1.0], 5, 0) == [5]


@pytest.mark.parametrize("cooldown", [2**31 - 1, 2**40, 1e30])
def test_a_cooldown_that_never_ends(cooldown):
    assert freeze_steps([[0]] * 6, [1], 2, 0, cooldown) == [0]


def test_patience_counts_measured_steps_in_a_row():
    rows = [[0], [0], [2], [0], [0], [0]]
    assert freeze_steps(rows, [1], 0, 2) == [6]


def test_patience_may_begin_in_the_grace_period():
    assert freeze_steps([[0]] * 6, [1], 4, 3) == [4]


@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_not_finite_is_never_below(bad):
    rows = [[bad]] * 3 + [[0.0]]
    assert freeze_steps(rows, [1e30], 0, 0) == [4]
    assert freeze_steps([[0], [bad], [0], [0]], [1], 0, 1) == [4]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(
            st.one_of(st.floats(0, 2, width=32), st.just(NAN)),
            min_size=3,
            max_size=3,
        ),
        min_size=1,
        max_size=12,
    ),
    grace_steps=st.integers(0, 8),
    patience=st.integers(0, 3),
    cooldown=st.one_of(st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.5])),
)
def test_the_rule_of_the_paper(rows, grace_steps, patience, cooldown):
    expected = []
    for i in range(3):
        is_below = [row[i] < 1.0 for row in rows]
        frozen_at = 0
        for t in range(1, len(rows) + 1):
            window = is_below[max(0, t - patience - 1) : t]
            long_enough = len(window) == patience + 1
            if t >= grace_steps and long_enough and all(window):
                frozen_at = t
                break
        # Then it cools down, in so many steps, or so many times as many.
        if isinstance(cooldown, float):
            frozen_at += math.floor(cooldown * frozen_at)
        elif frozen_at:
            frozen_at += cooldown
        expected.append(frozen_at if frozen_at <= len(rows) else 0)
    actual = freeze_steps(rows, [1.0] * 3, grace_steps, patience, cooldown)
    assert actual == expected


@pytest.mark.parametrize(
    ("cooldown", "shares"),
    [(0, [1, 0, 0]), (3, [1, 0.75, 0.5, 0.25, 0, 0]), (0.2, [1, 0.5, 0])],
)
def test_updates_are_scaled_down_until_it_is_frozen(cooldown, shares):
    converged_at = keras.ops.convert_to_tensor(np.array([5, 0], "int32"))
    for i, share in enumerate(shares):
        frozen_at = keras.ops.zeros((2,), "int32")
        actual = share_of_update(converged_at, frozen_at, 5 + i, cooldown)
        assert keras.ops.convert_to_numpy(actual).tolist() == [share, 1]


def test_what_is_frozen_takes_nothing_of_an_update():
    """Whatever a checkpoint says of when it converged."""
    converged_at = keras.ops.convert_to_tensor(np.array([0, 5, 0], "int32"))
    frozen_at = keras.ops.convert_to_tensor(np.array([3, 5, 0], "int32"))
    actual = share_of_update(converged_at, frozen_at, 6, 10)
    assert keras.ops.convert_to_numpy(actual).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"tau": 0.0}, ValueError, "`tau` must be positive"),
        ({"tau": -1}, ValueError, "tau=-1"),
        ({"tau": NAN}, ValueError, "tau=nan"),
        ({"tau": INF}, ValueError, "tau=inf"),
        ({"tau": "0.1"}, TypeError, "tau='0.1' of type str"),
        ({"tau": None}, TypeError, "positive float, a dict"),
        ({"tau": True}, TypeError, "tau=True"),
        ({"tau": {}}, ValueError, "at least one pattern"),
        ({"tau": {"(": 1.0}}, ValueError, "valid regular expressions"),
        ({"tau": {1: 1.0}}, TypeError, "regular expressions"),
        ({"tau": {"query": -1.0}}, ValueError, "positive"),
        ({"alpha": 1.0}, ValueError, "alpha=1.0"),
        ({"alpha": -0.1}, ValueError, r"\[0, 1\)"),
        ({"alpha": -1}, ValueError, "alpha=-1"),
        ({"alpha": NAN}, ValueError, "alpha=nan"),
        ({"alpha": "half"}, TypeError, "alpha='half'"),
        ({"monitor": "loss"}, ValueError, "'gradient_change'"),
        ({"norm": "l3"}, ValueError, "'mean_l1'"),
        ({"patience": -1}, ValueError, "patience=-1"),
        ({"patience": 1.5}, TypeError, "patience=1.5"),
        ({"cooldown": -1}, ValueError, "cooldown=-1"),
        ({"cooldown": INF}, ValueError, "cooldown=inf"),
        ({"cooldown": "1"}, TypeError, "cooldown='1' of type str"),
        ({"cooldown": True}, TypeError, "cooldown=True"),
    ],
)
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error, match=says):
        Rule(**{"tau": 1.0, **arguments})


def test_grace_steps():
    assert Rule(1.0, alpha=0.5).grace_steps(101) == 50
    assert Rule(1.0, alpha=7).grace_steps(None) == 7
    assert Rule(1.0, alpha=0).grace_steps(None) == 0
    with pytest.raises(ValueError, match="Pass an integer"):
        Rule(1.0, alpha=0.5).grace_steps(None)


def components(*names):
    return [Component(name, "query", "block", ()) for name in names]


def test_thresholds_by_pattern():
    found = components("vision/0/query", "vision/0/key", "text/0/query", "x")
    rule = Rule({r"vision/.*/query": 1.0, r"vision/": 2.0, r"query$": 3.0})
    tracked, tau = rule.thresholds(found)
    assert tracked == found[:3]
    np.testing.assert_array_equal(tau, np.float32([1, 2, 3]))


def test_a_pattern_without_a_match_is_an_error():
    rule = Rule({"query": 1.0, "quary": 2.0})
    with pytest.raises(ValueError, match="'quary'.*text/0/query"):
        rule.thresholds(components("text/0/query"))


def test_a_pattern_shadowed_by_an_earlier_one_is_no_error():
    rule = Rule({"query": 1.0, "text": 2.0})
    tracked, tau = rule.thresholds(components("text/query"))
    assert len(tracked) == 1
    assert tau.tolist() == [1.0]
