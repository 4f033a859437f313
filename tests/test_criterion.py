"""When a component converges, and when it then freezes."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades.criterion import Prescribed
from keras_grades.criterion import Together
from keras_grades.monitors import UNDEFINED
from keras_grades.outlook import Outlook
from keras_grades.policy import FreezePolicy

NAN, INF = float("nan"), float("inf")


def freeze_steps(rows, *, tau, grace_steps=0, patience=0, cooldown=0):
    """Steps through criterion and action; the freeze step of each component."""
    policy = FreezePolicy(
        tau=1.0, alpha=grace_steps, patience=patience, cooldown=cooldown
    ).resolve([], Outlook(None))
    return step_through(rows, tau, policy.criterion, policy.action)


def step_through(rows, tau, criterion, action):
    n = len(rows[0])
    state = {
        name: keras.ops.full(spec.shape, spec.initial, spec.dtype)
        for name, spec in criterion.init(n).items()
    }
    frozen_at = np.zeros(n, "int32")
    for t, row in enumerate(rows, start=1):
        state = criterion.update(
            state,
            keras.ops.array(row, "float32"),
            keras.ops.ones((n,), "bool"),
            t,
            keras.ops.array(tau, "float32"),
        )
        at_rest = keras.ops.convert_to_numpy(
            action.is_at_rest(state["converged_at"], t)
        )
        frozen_at[at_rest & (frozen_at == 0)] = t
    return frozen_at.tolist()


def test_freezes_at_the_first_step_below_tau():
    rows = [[3, 1], [2, 3], [0.5, 2], [2, 0.9]]
    assert freeze_steps(rows, tau=[1, 1]) == [3, 4]


def test_tau_itself_is_not_below_tau():
    assert freeze_steps([[1.0], [1.0]], tau=[1.0], patience=0) == [0]


def test_nothing_freezes_before_the_grace_period_ends():
    assert freeze_steps([[0.0]] * 9, tau=[1.0], grace_steps=5) == [5]


def test_patience_counts_measured_steps_in_a_row():
    rows = [[0], [0], [2], [0], [0], [0]]
    assert freeze_steps(rows, tau=[1], patience=2) == [6]


def test_patience_may_begin_in_the_grace_period():
    assert freeze_steps([[0]] * 6, tau=[1], grace_steps=4, patience=3) == [4]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_is_never_below(bad):
    rows = [[bad]] * 3 + [[0.0]]
    assert freeze_steps(rows, tau=[1e30]) == [4]
    assert freeze_steps([[0], [bad], [0], [0]], tau=[1], patience=1) == [4]


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
        # Then it cools down, for a number of steps or a multiple of these.
        if isinstance(cooldown, float):
            frozen_at += math.floor(cooldown * frozen_at)
        elif frozen_at:
            frozen_at += cooldown
        expected.append(frozen_at if frozen_at <= len(rows) else 0)
    actual = freeze_steps(
        rows,
        tau=[1.0] * 3,
        grace_steps=grace_steps,
        patience=patience,
        cooldown=cooldown,
    )
    assert actual == expected


def test_prescribed_steps():
    policy = FreezePolicy(
        tau=1.0, alpha=0, criterion=Prescribed([3, 0, 1])
    ).resolve([], Outlook(None))
    rows = [[1.0] * 3] * 5
    frozen_at = step_through(rows, [1.0] * 3, policy.criterion, policy.action)
    assert frozen_at == [3, 0, 1]
    with pytest.raises(ValueError, match="3 steps for 2 components"):
        policy.criterion.init(2)


def converge_together(rows, measured=None, **arguments):
    """Steps through `Together`; the step at which each converges."""
    criterion = Together(**arguments)
    n = len(rows[0])
    state = {
        name: keras.ops.full(spec.shape, spec.initial, spec.dtype)
        for name, spec in criterion.init(n).items()
    }
    for t, row in enumerate(rows, start=1):
        is_measured = np.ones(n, bool) if measured is None else measured[t - 1]
        state = criterion.update(
            state,
            keras.ops.array(row, "float32"),
            keras.ops.array(is_measured),
            t,
            keras.ops.zeros((n,)),
        )
    return keras.ops.convert_to_numpy(state["converged_at"]).tolist()


def test_all_converge_when_their_mean_was_above_and_is_below():
    rows = [[1, 1], [1, 0], [-2, 1], [-1, -1]]
    assert converge_together(rows, patience=0, grace_steps=0) == [3, 3]
    assert converge_together(rows, patience=1, grace_steps=0) == [4, 4]
    assert converge_together(rows, patience=0, grace_steps=4) == [4, 4]
    assert converge_together(rows, patience=2, grace_steps=0) == [0, 0]
    # Zero is not below zero.
    rows = [[1, 1], [0, 0]]
    assert converge_together(rows, patience=0, grace_steps=0) == [0, 0]


def test_steps_without_a_measurement_do_not_count():
    """As where a `train_step` trains something else every second time."""
    rows = [[1], [9], [1], [9], [-1], [9], [-1]]
    measured = np.array([[True], [False]] * 4)[:7]
    found = converge_together(rows, measured, patience=1, grace_steps=0)
    assert found == [7]
    found = converge_together(rows, patience=1, grace_steps=0)
    assert found == [0]


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 1.0, NAN]), min_size=1, max_size=30),
    st.integers(0, 4),
)
def test_together_is_first_above_then_below(values, patience):
    """Against the windows of the whole history."""

    def ends_of_runs(is_so, length):
        """The steps up to which it was so, so many in a row."""
        return [
            t
            for t in range(length, len(values) + 1)
            if all(is_so(v) for v in values[t - length : t])
        ]

    above = ends_of_runs(lambda v: v > 0, patience // 2 + 1)
    below = ends_of_runs(lambda v: v < 0, patience + 1)
    # The two cannot overlap.
    expected = next((t for t in below if above and t > above[0]), 0)
    rows = [[value, value] for value in values]
    found = converge_together(rows, patience=patience, grace_steps=0)
    assert found == [expected] * 2


def test_what_never_helped_has_not_stopped_helping():
    rows = [[-1, -1]] * 5
    assert converge_together(rows, patience=0, grace_steps=0) == [0, 0]
    arguments = {"patience": 0, "grace_steps": 0, "deadline": 4}
    assert converge_together(rows, **arguments) == [4, 4]


def test_the_mean_is_of_what_is_measured():
    rows, known = [[UNDEFINED, 1], [UNDEFINED, -1]], [[False, True]] * 2
    found = converge_together(rows, known, patience=0, grace_steps=0)
    assert found == [2, 2]
    nothing = [[False, False]] * 2
    assert converge_together(rows, nothing, patience=0, grace_steps=0) == [0, 0]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_mean_that_is_not_finite_is_not_below(bad):
    rows = [[1, 1], [bad, -5]]
    assert converge_together(rows, patience=0, grace_steps=0) == [0, 0]


def test_at_a_deadline_all_converge():
    rows, known = [[1, UNDEFINED]] * 5, [[True, False]] * 5
    arguments = {"patience": 0, "grace_steps": 0, "deadline": 4}
    assert converge_together(rows, known, **arguments) == [4, 4]
    rows = [[1, 1]] + [[-1, -1]] * 5
    assert converge_together(rows, **arguments) == [2, 2]
