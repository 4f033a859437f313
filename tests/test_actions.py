"""How a component that has converged comes to rest."""

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES
from keras_grades.actions import Anneal
from keras_grades.actions import Freeze
from keras_grades.actions import Settle


def integers(*values):
    return keras.ops.convert_to_tensor(np.array(values, "int32"))


def shares(cooldown, step, converged_at, frozen_at):
    state = {"converged_at": converged_at, "frozen_at": frozen_at}
    share = Anneal(cooldown).share(state, step)
    return keras.ops.convert_to_numpy(share).tolist()


def at_rest(action, converged_at, step):
    is_at_rest = action.is_at_rest(integers(*converged_at), step)
    return keras.ops.convert_to_numpy(is_at_rest).tolist()


@pytest.mark.parametrize(
    ("cooldown", "expected"),
    [(0, [1, 0, 0]), (3, [1, 0.75, 0.5, 0.25, 0, 0]), (0.2, [1, 0.5, 0])],
)
def test_updates_are_scaled_down_until_it_is_frozen(cooldown, expected):
    for i, share in enumerate(expected):
        found = shares(cooldown, 5 + i, integers(5, 0), integers(0, 0))
        assert found == [share, 1]


def test_what_is_frozen_takes_nothing_of_an_update():
    """Whatever a checkpoint says of when it converged."""
    assert shares(10, 6, integers(0, 5, 0), integers(3, 5, 0)) == [0, 0, 1]


@pytest.mark.parametrize("cooldown", [2**31 - 1, 2**40, 1e30])
def test_a_cooldown_that_never_ends(cooldown):
    for step in (2, 3, 6):
        assert at_rest(Anneal(cooldown), [2, 0], step) == [False, False]


def test_at_rest_once_it_has_cooled_down():
    assert at_rest(Anneal(3), [5, 0], 7) == [False, False]
    assert at_rest(Anneal(3), [5, 0], 8) == [True, False]


def test_frozen_at_once_takes_whole_updates_until_then():
    assert Freeze().share({}, 3) is None
    assert at_rest(Freeze(), [3, 0], 3) == [True, False]


def rates(action, step, converged_at):
    state = {"converged_at": integers(*converged_at)}
    return float(action.rate(state, step))


def test_the_learning_rate_falls_for_all():
    action = Settle(3, ["a", "b"])
    assert action.share({}, 5) is None
    found = [rates(action, step, [5, 5]) for step in range(5, 11)]
    assert found == [1, 0.75, 0.5, 0.25, 0, 0]
    assert rates(action, 100, [0, 0]) == 1
    halfway = Settle(0.5, ["a"])
    assert rates(halfway, 15, [10]) == pytest.approx(1 - 5 / 6)


def test_what_converges_late_rests_by_the_end():
    action = Settle(8, ["a", "b"], end=14)
    assert rates(action, 11, [10, 10]) == pytest.approx(0.8)
    assert rates(action, 15, [10, 10]) == 0
    assert at_rest(action, [10, 10], 12) == [1, 0]
    assert at_rest(action, [10, 10], 14) == [1, 1]
    # Early enough, or already beyond it.
    assert rates(action, 5, [4, 4]) == pytest.approx(8 / 9)
    assert at_rest(action, [16, 16], 16) == [1, 1]


class Lookahead(keras.optimizers.Optimizer):
    """As users write one: it takes steps with another one."""

    def __init__(self, inner):
        super().__init__(learning_rate=1.0)
        self.inner = inner

    def build(self, variables):
        super().build(variables)
        self.inner.build(variables)

    def apply(self, grads, trainable_variables=None):
        self.inner.apply(grads, trainable_variables)


DO_NOT_FOLLOW = {
    "Ftrl": lambda: keras.optimizers.Ftrl(0.05),
    "ScheduleFreeAdamW": lambda: keras.optimizers.ScheduleFreeAdamW(0.01),
    "Lookahead": lambda: Lookahead(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("name", DO_NOT_FOLLOW)
def test_updates_that_do_not_shrink_with_the_rate(name):
    model = small.transformer(blocks=1)
    optimizer = DO_NOT_FOLLOW[name]()
    model.compile(optimizer, small.loss())
    with pytest.raises(ValueError, match=f"cooldown=0.*: {name}"):
        small.fit(model, GradES(verbose=0))
    assert model.optimizer is optimizer
    grades = GradES(cooldown=0, alpha=2, verbose=0)
    small.fit(model, grades)
    assert [c.frozen_at for c in grades.components] == [6] * 6


def test_blocks_settle_from_below():
    blocks = ["a", "a", "b", "c"]
    action = Settle(8, blocks)
    at = {4: [1, 1, 0, 0], 5: [1, 1, 0, 0], 6: [1, 1, 1, 0], 8: [1, 1, 1, 1]}
    for since, expected in at.items():
        assert at_rest(action, [10] * 4, 10 + since) == expected
    assert at_rest(action, [10] * 4, 13) == [0, 0, 0, 0]
    assert at_rest(action, [0] * 4, 13) == [0, 0, 0, 0]
    # One block waits for the end.
    assert at_rest(Settle(8, ["a"]), [10], 17) == [False]
    assert at_rest(Settle(8, ["a"]), [10], 18) == [True]


def test_actions_that_leave_the_learning_rate_alone():
    assert Freeze().rate({}, 3) is None
    assert Anneal(4).rate({}, 3) is None
