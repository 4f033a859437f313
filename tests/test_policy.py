"""The arguments of the rule, and what they stand for."""

import keras
import numpy as np
import pytest
import small

import keras_grades
from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades.actions import Anneal
from keras_grades.actions import Freeze
from keras_grades.actions import Settle
from keras_grades.component import Component
from keras_grades.criterion import Prescribed
from keras_grades.criterion import Threshold
from keras_grades.criterion import Together
from keras_grades.monitors.gradient import Gradient
from keras_grades.monitors.relative_change import RelativeChange
from keras_grades.monitors.transfer import Transfer
from keras_grades.outlook import Outlook
from keras_grades.policy import FreezePolicy

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"tau": 0.0}, ValueError, "`tau` must be positive"),
        ({"tau": -1}, ValueError, "tau=-1"),
        ({"tau": NAN}, ValueError, "tau=nan"),
        ({"tau": INF}, ValueError, "tau=inf"),
        # As a float32, which is what it is compared in.
        ({"tau": 1e-50}, ValueError, "tau=1e-50"),
        ({"tau": 1e39}, ValueError, "tau=1e\\+39"),
        ({"tau": "0.1"}, TypeError, "tau='0.1' of type str"),
        ({"tau": None}, TypeError, "positive float, a dict"),
        ({"tau": True}, TypeError, "tau=True"),
        ({"tau": {}}, ValueError, "at least one pattern"),
        ({"tau": {"(": 1.0}}, ValueError, "valid regular expression"),
        ({"tau": {1: 1.0}}, TypeError, "must be a regular expression"),
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
        ({"horizon": 2}, ValueError, "`horizon` belongs to"),
        ({"monitor": "transfer", "tau": -1}, ValueError, "greater than -1"),
        *[
            ({"monitor": "transfer", "horizon": horizon}, error, says)
            for horizon, error, says in [
                (0, ValueError, "horizon=0"),
                (-0.5, ValueError, "a float > 0, a number of epochs"),
                ("2", TypeError, "horizon='2' of type str"),
                (True, TypeError, "horizon=True"),
            ]
        ],
        ({"cooldown": -1}, ValueError, "cooldown=-1"),
        ({"cooldown": INF}, ValueError, "cooldown=inf"),
        ({"cooldown": "1"}, TypeError, "cooldown='1' of type str"),
        ({"cooldown": True}, TypeError, "cooldown=True"),
        ({"monitor": 1}, TypeError, "an instance of a subclass"),
    ],
)
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error, match=says):
        FreezePolicy(**{"tau": 1.0, **arguments})


def grace_steps(total_steps, **arguments):
    policy = FreezePolicy(tau=1.0, **arguments)
    return policy.resolve(components("query"), Outlook(total_steps)).grace_steps


def test_grace_steps():
    assert grace_steps(101, alpha=0.5) == 50
    assert grace_steps(None, alpha=7) == 7
    assert grace_steps(None, alpha=0) == 0
    with pytest.raises(ValueError, match="Pass an integer"):
        grace_steps(None, alpha=0.5)


def components(*names):
    return [Component(name, "query", "block", ()) for name in names]


def thresholds(tau, found):
    resolved = FreezePolicy(tau=tau, alpha=0).resolve(found, Outlook(None))
    return list(resolved.components), resolved.tau


def test_thresholds_by_pattern():
    found = components("vision/0/query", "vision/0/key", "text/0/query", "x")
    tau = {r"vision/.*/query": 1.0, r"vision/": 2.0, r"query$": 3.0}
    tracked, found_tau = thresholds(tau, found)
    assert tracked == found[:3]
    np.testing.assert_array_equal(found_tau, np.float32([1, 2, 3]))


def test_a_pattern_without_a_match_is_an_error():
    with pytest.raises(ValueError, match="'quary'.*text/0/query"):
        thresholds({"query": 1.0, "quary": 2.0}, components("text/0/query"))


def test_a_pattern_shadowed_by_an_earlier_one_is_no_error():
    tau = {"query": 1.0, "text": 2.0}
    tracked, found_tau = thresholds(tau, components("text/query"))
    assert len(tracked) == 1
    assert found_tau.tolist() == [1.0]


def test_a_policy_says_what_is_used():
    found = components("query", "key")
    resolved = FreezePolicy(tau=1.0).resolve(found, Outlook(10))
    assert isinstance(resolved.monitor, Gradient)
    assert isinstance(resolved.criterion, Threshold)
    assert isinstance(resolved.action, Freeze)
    annealed = FreezePolicy(monitor="relative_change", cooldown=3).resolve(
        found, Outlook(10)
    )
    assert isinstance(annealed.monitor, RelativeChange)
    assert isinstance(annealed.action, Anneal)
    default = FreezePolicy(monitor="transfer").resolve(found, Outlook(10))
    assert isinstance(default.monitor, Transfer)
    assert isinstance(default.criterion, Together)
    assert isinstance(default.action, Settle)
    # Without a monitor, and a tau, the learning rate tells.
    auto = FreezePolicy()
    for outlook, kind in [
        (Outlook(10), Transfer),
        (Outlook(None), Transfer),
        (Outlook(10, decays=True), RelativeChange),
    ]:
        chosen = auto.chosen(outlook)
        assert isinstance(chosen.resolve(found, outlook).monitor, kind)
    reaches = FreezePolicy(horizon=5).resolve(found, Outlook(10, decays=True))
    assert isinstance(reaches.monitor, Transfer)
    decaying = Outlook(10, decays=True)
    longer = FreezePolicy(patience=3).chosen(decaying)
    assert longer.resolve(found, decaying).criterion.patience == 3
    with pytest.raises(ValueError, match="patience=-1"):
        FreezePolicy(patience=-1)
    prescribed = Prescribed([2, 0])
    given = FreezePolicy(criterion=prescribed).chosen(Outlook(10))
    assert given.resolve(found, Outlook(10)).criterion is prescribed


@pytest.mark.parametrize(
    "make",
    [
        lambda **retired: GradES(**retired),
        lambda **retired: GradESOptimizer(
            keras.optimizers.SGD(), components("query"), **retired
        ),
    ],
)
def test_retired_arguments_say_what_to_use(make):
    with pytest.raises(TypeError, match="`thaw`.*larger `patience`.*thaw=True"):
        make(thaw=True)
    with pytest.raises(TypeError, match="`interval`.*larger `patience`"):
        make(interval=2)
    with pytest.raises(TypeError, match="Unknown argument.*patiance=2"):
        make(patiance=2)


def test_all_but_tau_is_given_by_keyword():
    with pytest.raises(TypeError, match="positional"):
        GradES(1.0, 0.5)


@pytest.mark.parametrize("cooldown", [0.25, 0.29, 0.57, 0.58, 1.0, 3.3])
def test_a_deadline_leaves_a_whole_cooldown(cooldown):
    """As the device counts it: in single precision 0.29 times 100 is 29."""
    model = small.transformer(blocks=1)
    found = keras_grades.find_components(model)
    policy = FreezePolicy(monitor="transfer", cooldown=cooldown)
    # Without an end it takes all of its time.
    action = Settle(cooldown, ["block", "block"])
    for end in range(20, 200):
        rule = policy.resolve(found, Outlook(end))
        deadline = rule.criterion.deadline
        steps = keras.ops.array([deadline, deadline + 1], "int32")
        rests_at = keras.ops.convert_to_numpy(action.rest_at(steps))
        assert rests_at[0] <= end < rests_at[1]
