"""When the train step is rebuilt: the rule, and what it promises."""

import itertools
import math

import flops
import keras
import numpy as np
import pytest
import small
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_grades
from keras_grades import GradES
from keras_grades.backend import backend
from keras_grades.component import Component
from keras_grades.component import Followers
from keras_grades.rebuild.ahead import Ahead
from keras_grades.rebuild.ahead import best_rebuilds
from keras_grades.rebuild.costs import SavingEstimate
from keras_grades.rebuild.costs import StepWork
from keras_grades.rebuild.costs import work_of
from keras_grades.rebuild.decision import HESITATION
from keras_grades.rebuild.decision import RebuildPolicy
from keras_grades.rebuild.decision import is_worth_it
from keras_grades.rebuild.rebuilder import Rebuilder
from keras_grades.truncation import find_followers


def seconds_lost(cost, saving, planned, ran, freezes=1):
    """What the rule loses in a run, and the best choice in hindsight.

    One component freezes a step, as many as `freezes`; each saves as much.
    """
    lost = lost_at_last = all_lost = 0.0
    has_rebuilt = False
    for step in range(ran):
        if step < freezes:
            lost_at_last = lost
        frozen = min(step + 1, freezes)
        if not has_rebuilt and is_worth_it(
            cost,
            saving * frozen / freezes,
            planned - step,
            lost,
            lost - lost_at_last,
        ):
            has_rebuilt = True
            lost += cost
        # What freezes later would be one more rebuild.
        if not has_rebuilt:
            lost += saving * frozen / freezes
        all_lost += saving * frozen / freezes
    return lost, min(cost, all_lost)


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


@settings(max_examples=300, deadline=None)
@given(cost=costs, saving=savings, planned=lengths, freezes=lengths)
def test_some_twice_the_best_if_freezes_keep_coming(
    cost, saving, planned, freezes
):
    lost, best = seconds_lost(cost, saving, planned, planned, freezes)
    # At worst the cost has just been lost at two thirds of the plan, too late
    # for a rebuild, and what is saved a step grows on: 9 / 4.
    assert lost <= 2.25 * best + 2 * saving + 1e-6


def test_no_rebuild_where_everything_freezes_within_a_few_steps():
    # 20 steps of it, 8 seconds in all, before 379 are saved by stopping.
    arguments = {"cost": 9, "saving": 0.8, "planned": 400}
    lost, _ = seconds_lost(ran=20, freezes=20, **arguments)
    assert lost == pytest.approx(0.8 * 21 / 2)
    # If it does not stop, a rebuild pays, and is made.
    lost, _ = seconds_lost(ran=400, freezes=20, **arguments)
    assert lost <= 2 * 9 + 0.8


def test_never_worth_it():
    much = {"lost": 1e9, "lost_since_last": 1e9}
    assert not is_worth_it(cost=10, saving=0.1, remaining=100, **much)
    assert not is_worth_it(cost=0, saving=0, remaining=100, **much)
    assert not is_worth_it(cost=10, saving=-1, remaining=100, **much)


def test_waits_for_a_share_of_the_cost():
    arguments = {"cost": 8, "saving": 1, "remaining": 100}
    share = 8 * HESITATION
    for lost, lost_since_last, is_due in [
        (share - 0.1, share - 0.1, False),
        (share, share, True),
        (7.9, share - 0.1, False),  # Something has frozen since.
        (8, 0, True),
    ]:
        assert is_due == is_worth_it(
            lost=lost, lost_since_last=lost_since_last, **arguments
        )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), end=st.integers(1, 60))
def test_the_best_rebuilds_are_the_best_of_all(data, end):
    steps = data.draw(st.lists(st.integers(0, end), max_size=6, unique=True))
    steps.sort()
    savings = data.draw(
        st.lists(st.floats(0, 3), min_size=len(steps), max_size=len(steps)).map(
            sorted
        )
    )

    costs = [data.draw(st.floats(0.1, 20)) for _ in steps]

    def gained(chosen):
        """Step by step: what the last rebuild so far saves."""
        saved = -sum(costs[i] for i in chosen)
        for step in range(end):
            so_far = [savings[i] for i in chosen if steps[i] <= step]
            saved += max(so_far, default=0.0)
        return saved

    places = range(len(steps))
    every = itertools.chain.from_iterable(
        itertools.combinations(places, n) for n in range(len(steps) + 1)
    )
    best = best_rebuilds(steps, savings, end, costs)
    assert gained(best) == pytest.approx(max(map(gained, every)))
    assert best == sorted(set(best))


def test_auto_follows_the_best_rebuilds_where_the_end_is_known():
    def ahead(steps, shares, end):
        return Ahead(steps, shares, [3] * len(steps), end)

    def is_due(*rest):
        return rebuilds_by("auto").is_due(500, 3, 0.2, ahead(*rest))

    def comes_in(*rest):
        return rebuilds_by("auto").comes_in(ahead(*rest))

    # A step of 1 s, half of the share; 10 s to compile.
    assert is_due([0], [0.2], 101)  # 10.1 s
    assert not is_due([0], [0.2], 99)
    # Soon as much again is frozen: one rebuild then is better than two.
    assert not is_due([0, 10], [0.2, 0.4], 101)
    assert is_due([0, 150], [0.2, 0.4], 400)
    # It asks about now, not about what is best later.
    assert not is_due([0, 50], [0.0, 0.4], 400)
    # That is begun now, too.
    assert comes_in([0], [0.2], 101) == 0
    assert comes_in([0], [0.2], 99) is None
    assert comes_in([0, 50], [0.0, 0.4], 400) == 50


@pytest.mark.parametrize(
    "mode, steps", [("always", 5), (4, 9), (6, None), ("never", None)]
)
def test_the_next_rebuild_is_known_ahead(mode, steps):
    ahead = Ahead([0, 5, 9], [0.0, 0.1, 0.2], [0, 2, 5], 20)
    assert rebuilds_by(mode).comes_in(ahead) == steps


def test_to_compile_beside_training_costs_what_it_holds_up():
    rebuilds = rebuilds_by("auto")  # A step of 1 s, 10 s to compile.
    rebuilds.compiles_beside()
    rebuilds.ran(4, 6.0, 0.0, is_beside=True)
    rebuilds.ran(4, 5.0, 0.0, is_beside=True)
    assert rebuilds.step_seconds == 1.0  # As if they had not been.
    rebuilds.held_up(1.0)
    rebuilds.rebuilt(3, 0.2)
    rebuilds.compiled(20, 0.5)
    assert rebuilds.timing()["compilations"][-1]["seconds"] == 4.5
    rebuilds.ran(10, 10.0, 0.0)
    saved = rebuilds._estimate.seconds(0.2, 1.0)

    def pays(steps, after):
        ahead = Ahead([steps], [0.2], [3], steps + after)
        return rebuilds.comes_in(ahead) is not None

    # So much does the next one cost, if there is time to compile it.
    enough = math.ceil(4.5 / saved) + 1
    assert pays(10, enough) and not pays(10, enough - 2)
    # If not, training waits for all of it.
    assert not pays(9, enough) and not pays(0, enough)
    assert pays(9, math.ceil(10 / saved) + 1)


def test_work_is_counted_in_products():
    below, *weights = [keras.Variable(np.ones((10, 10))) for _ in range(4)]
    components = [Component("c", "query", "c", (w,)) for w in weights]
    follows = Followers((below,), (0, 1))
    products = [0, 100, 100, 100]
    work = StepWork([below, *weights], products, components, [follows])
    # A product forward and two backward, and the update of everything.
    u = StepWork.UPDATE
    whole = 3 * 300 + 400 * u
    none, one = np.array([False] * 3), np.array([True, False, False])
    assert work.share(none) == 0
    # Its own gradient and its update.
    assert work.share(one) == pytest.approx((100 + 100 * u) / whole)
    # Two components, what follows on them, and all of the backward pass but
    # the gradient of the third: the first that is trained.
    two = work.share(np.array([True, True, False]))
    assert two == pytest.approx((200 + 200 * u + 100 * u + 300) / whole)


def adapt(model):
    """Trains LoRA pairs and the head, as KerasHub does."""
    for v in model.weights:
        v.trainable = v.path.startswith("head")
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora") and layer.name != "head":
            layer.enable_lora(2)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA counts")
@pytest.mark.parametrize("kind", ["all is trained", "truncated", "LoRA"])
def test_work_is_what_xla_counts(kind):
    model = small.transformer(blocks=2, width=64, hidden=128)
    if kind == "LoRA":
        adapt(model)
    model.compile("sgd", small.loss())
    components = keras_grades.find_components(model)
    assert len(components) == 12
    is_truncated = kind == "truncated"
    followers = find_followers(model, components) if is_truncated else []
    work = work_of(model, components, followers)
    plain = flops.of_a_step(model, batch_size=64)
    for n in (6, 12):
        frozen = np.arange(12) < n
        groups = [c for c, f in zip(components, frozen) if f]
        groups += [f for f in followers if f.are_frozen(frozen)]
        paths = {v.path for g in groups for v in g.variables}
        saved = 1 - flops.of_a_step(model, paths, batch_size=64) / plain
        assert saved > 0.08
        assert work.share(frozen) == pytest.approx(saved, abs=0.08)


def test_a_rebuild_costs_a_compilation_for_each_kind_of_batch():
    for kinds, pays in ((1, True), (2, False)):
        rebuilds = rebuilds_by("auto")  # A compilation takes 10 s.
        rebuilds.kinds_of_batches = kinds
        ahead = Ahead(steps=[0], shares=[0.3], counts=[1], end=100)
        # It saves 0.15 s of a second, on 100 steps.
        assert rebuilds.is_due(10, 1, 0.3, ahead) == pays


def test_a_long_run_remembers_no_more_than_it_needs():
    rebuilds = RebuildPolicy("auto", 10**6, False, math.inf)
    rebuilds.compiled(step=1, seconds=10.0)
    for i in range(1000):
        rebuilds.ran(steps=1, seconds=1.0 if i < 600 else 2.0, share=0.0)
    assert rebuilds.step_seconds == 2.0


def test_estimate_learns_from_rebuilds():
    estimate = SavingEstimate()
    # Half of what counting says, until something is known.
    assert estimate.seconds(0.1, step_seconds=2.0) == pytest.approx(0.1)
    for _ in range(20):
        estimate.observe(0.1, before=2.0, after=1.84)  # 0.16, not 0.2
    assert estimate.seconds(0.1, 2.0) == pytest.approx(0.16, rel=1e-3)
    for _ in range(20):
        estimate.observe(0.1, before=2.0, after=2.1)
    assert estimate.seconds(0.1, 2.0) == pytest.approx(0.0, abs=1e-3)


def rebuilds_by(
    mode, total_steps=1000, rebuild_is_free=False, max_rebuilds=math.inf
):
    rebuilds = RebuildPolicy(mode, total_steps, rebuild_is_free, max_rebuilds)
    rebuilds.compiled(step=1, seconds=10.0)
    rebuilds.ran(steps=10, seconds=10.0, share=0.0)
    return rebuilds


@pytest.mark.parametrize(
    ("mode", "due"),
    [
        ("never", [False, False, False]),
        ("always", [True, True, True]),
        (2, [False, True, True]),
    ],
)
def test_modes(mode, due):
    rebuilds = rebuilds_by(mode)
    assert [rebuilds.is_due(10, n, 0.1) for n in (1, 2, 3)] == due
    assert not rebuilds.is_due(10, 0, 0.0)


def test_what_is_free_happens_at_once():
    assert rebuilds_by("auto", rebuild_is_free=True).is_due(10, 1, 0.1)
    assert not rebuilds_by("never", rebuild_is_free=True).is_due(10, 1, 0.1)
    # Where nothing is compiled, that takes no time.
    timing = rebuilds_by("auto", rebuild_is_free=True).timing()
    assert [c["seconds"] for c in timing["compilations"]] == [0.0]


def test_no_more_rebuilds_than_allowed():
    rebuilds = rebuilds_by("always", max_rebuilds=2)
    for left in (1, 0):
        assert rebuilds.is_due(10, 1, 0.1)
        rebuilds.rebuilt(1, 0.1)
        assert rebuilds.rebuilds_left == left
    assert not rebuilds.is_due(10, 1, 0.1)


def test_what_was_never_compiled_is_no_rebuild():
    """Resumed, with something frozen from the start."""
    rebuilds = RebuildPolicy("always", 100, False, max_rebuilds=1)
    rebuilds.rebuilt(3, 1 / 3)
    assert rebuilds.rebuilds_left == 1
    for step, seconds in ((1, 1.0), (2, 0.8)):
        rebuilds.compiled(step, seconds=10.0)
        rebuilds.ran(steps=1, seconds=seconds, share=0.0)
        if step == 1:
            rebuilds.rebuilt(1, 0.2)
    timing = rebuilds.timing()
    assert [c["frozen"] for c in timing["compilations"]] == [3, 4]
    assert timing["seconds_saved_measured"] == pytest.approx(0.2)


def test_auto_rebuilds_when_it_pays():
    # Half of a third of a step of a second.
    rebuilds, share = rebuilds_by("auto"), 1 / 3
    assert not rebuilds.is_due(10, 3, share)  # Nothing lost yet.
    rebuilds.ran(steps=14, seconds=14.0, share=share)
    assert not rebuilds.is_due(24, 3, share)
    rebuilds.ran(steps=2, seconds=2.0, share=share)
    assert rebuilds.is_due(26, 3, share)  # 16 * 1/6 > 10 / 4.
    assert not rebuilds.is_due(950, 3, share)  # 50 * 1/6 < 10.


def test_it_says_why_nothing_was_rebuilt():
    rebuilds, share = rebuilds_by("auto"), 1 / 3
    assert rebuilds.timing()["why_not_rebuilt"] is None  # Nothing froze.
    assert not rebuilds.is_due(950, 3, share)  # 50 * 1/6 < 10.
    rebuilds.ran(steps=30, seconds=30.0, share=share)
    assert rebuilds.timing()["why_not_rebuilt"] == (
        "a rebuild takes some 10.0 s, and might have saved 5.0 s"
    )
    rebuilds.rebuilt(3, share)
    rebuilds.compiled(step=960, seconds=8.0)
    assert rebuilds.timing()["why_not_rebuilt"] is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"mode": "never"}, "recompile='never'"),
        ({"mode": 4}, "recompile=4"),
        ({"mode": 3}, "training ended when they froze"),
        ({"mode": "always"}, "training ended when they froze"),
        *(
            (
                {"mode": mode, "rebuild_is_free": True},
                "training ended when they froze",
            )
            for mode in ("auto", 4)
        ),
        (
            {"mode": "auto", "max_rebuilds": 0},
            "the train step cannot be rebuilt here",
        ),
    ],
)
def test_it_says_why_nothing_was_rebuilt_but_for_the_cost(arguments, why):
    rebuilds = rebuilds_by(**arguments)
    # It is due at the very look at which training ends, or never.
    assert rebuilds.is_due(10, 3, 1 / 3) == why.startswith("training")
    assert rebuilds.timing()["why_not_rebuilt"] == why


def test_auto_waits_while_something_newly_freezes():
    rebuilds = rebuilds_by("auto")
    for n in range(1, 5):
        # As much is lost as above, and one more component has frozen.
        rebuilds.ran(steps=16, seconds=16.0, share=n / 9)
        is_due = rebuilds.is_due(10 + 16 * n, n, n / 9)
        # 16 * (1 + 2 + 3 + 4) / 18 < 10.
        assert not is_due
    rebuilds.ran(steps=6, seconds=6.0, share=4 / 9)
    assert rebuilds.is_due(90, 4, 4 / 9)


def test_auto_with_an_unknown_length():
    rebuilds = rebuilds_by("auto", total_steps=None)
    assert not rebuilds.is_due(10**6 - 16, 3, 1 / 3)
    rebuilds.ran(steps=16, seconds=16.0, share=1 / 3)
    assert rebuilds.is_due(10**6, 3, 1 / 3)


def test_keeps_the_time():
    rebuilds = rebuilds_by("always")
    rebuilds.rebuilt(3, 1 / 3)
    rebuilds.compiled(step=20, seconds=8.0)
    rebuilds.ran(steps=10, seconds=8.0, share=0.0)
    timing = rebuilds.timing()
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


def test_a_step_compiled_for_another_plan_is_no_rebuild():
    rebuilds = rebuilds_by("auto")
    for _ in range(2):
        rebuilds.compiled(step=20, seconds=8.0)
        rebuilds.ran(steps=10, seconds=7.0, share=1 / 3)
    assert not rebuilds.is_due(990, 3, 1 / 3)
    timing = rebuilds.timing()
    assert [c["seconds"] for c in timing["compilations"]] == [10.0 + 2 * 8.0]
    assert timing["seconds_saved_measured"] == 0
    assert "might have saved" in timing["why_not_rebuilt"]
    # Nor is it learned from, after one.
    rebuilds.rebuilt(3, 1 / 3)
    savings = []
    for _ in range(2):
        rebuilds.compiled(step=40, seconds=8.0)
        rebuilds.ran(steps=200, seconds=100.0, share=0.0)
        savings.append(rebuilds._estimate.seconds(1 / 3, 1.0))
    assert savings[0] == savings[1]


def test_steps_whose_time_is_not_known_count_as_the_others():
    rebuilds = rebuilds_by("auto")
    assert not rebuilds.is_due(10, 3, 1 / 3)
    rebuilds.ran(steps=8, seconds=None, share=1 / 3)
    assert not rebuilds.is_due(18, 3, 1 / 3)
    rebuilds.ran(steps=8, seconds=8.0, share=1 / 3)
    assert rebuilds.is_due(26, 3, 1 / 3)  # 16 * 1/6 > 10 / 4.
    unknown = RebuildPolicy("auto", 1000, False, math.inf)
    unknown.compiled(step=1, seconds=10.0)
    unknown.ran(steps=8, seconds=None, share=1 / 3)
    assert unknown.step_seconds is None


def test_keeps_the_time_of_rebuilds_in_a_row():
    """No step is timed between the first two compilations."""
    rebuilds = RebuildPolicy("always", 100, False, math.inf)
    for step in (1, 2):
        rebuilds.compiled(step, seconds=10.0)
        rebuilds.rebuilt(1, 0.1)
    rebuilds.ran(steps=1, seconds=1.0, share=0.0)
    rebuilds.compiled(3, seconds=10.0)
    rebuilds.ran(steps=1, seconds=0.9, share=0.0)
    timing = rebuilds.timing()
    assert [c["step_seconds_after"] for c in timing["compilations"]] == [
        None,
        1.0,
        0.9,
    ]
    # With nothing to compare with, nothing is claimed.
    assert timing["seconds_saved_measured"] == 0.0


@pytest.mark.parametrize("compiling, rebuilds", [(0, 1), (1000, 0)])
def test_a_run_rebuilds_when_a_block_has_settled(compiling, rebuilds):
    """By the plan one block does at step 108, and the other at 120."""
    model = small.transformer()
    model.compile(keras.optimizers.Adam(1e-3), small.loss())
    grades = GradES(verbose=0)
    now, sizes = itertools.count(), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: sizes.append(
            len(model.trainable_variables)
        )
    )
    # Where training begins, an epoch, the first step, and where that ends.
    first = iter([0, 0, 0])
    grades.clock = lambda: next(first, compiling) + next(now)
    x, y = small.data(30)
    model.fit(x, y, 4, epochs=4, verbose=0, callbacks=[grades, look])
    assert {c.frozen_at for c in grades.components} == {108, 120}
    timing = grades.report.timing
    if not backend.compiles(model):
        # Free, and so at once: at the first look that sees it.
        assert np.flatnonzero(np.diff(sizes)).tolist() == [108]
    if backend.compiles(model):
        assert len(timing["compilations"]) == 1 + rebuilds
    if rebuilds and backend.compiles(model):
        # It is seen at the look after that.
        assert timing["compilations"][1]["step"] == 110
        assert timing["compilations"][1]["frozen"] == 6
        assert timing["why_not_rebuilt"] is None
    elif backend.compiles(model):
        assert "a rebuild takes some 1" in timing["why_not_rebuilt"]


def test_nothing_is_planned_beyond_the_end(monkeypatch):
    """Where what has converged would come to rest later than that."""
    stops, decide = set(), Rebuilder.decide

    def note(self, step, frozen, rest_at=None, stop=None):
        stops.add(stop)
        decide(self, step, frozen, rest_at, stop)

    monkeypatch.setattr(Rebuilder, "decide", note)
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.SGD(0.01), small.loss())
    grades = GradES(1e30, alpha=4, cooldown=100, verbose=0)
    small.fit(model, grades, batches=12)
    assert stops == {12}
