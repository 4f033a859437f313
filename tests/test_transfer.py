"""Whether what is learned still helps: `monitor="transfer"`."""

import keras
import numpy as np
import pytest
import reference
import small
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from markers import marks_long_on

from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades import find_components
from keras_grades.component import Component
from keras_grades.monitors import UNDEFINED
from keras_grades.monitors.sample import ENTRIES
from keras_grades.monitors.transfer import LEAST_PART
from keras_grades.monitors.transfer import Transfer
from keras_grades.outlook import Outlook
from keras_grades.policy import FreezePolicy

pytestmark = pytest.mark.alike

SHAPE = (4, 3)
# Enough to know the cosine over long windows of parts of three steps.
STEPS = 90


def measure(gradients, weights, horizon=12 * LEAST_PART, adapts=False):
    """Feeds the monitor with matrices; what it measures at each step.

    Args:
        gradients, weights: Arrays of shape `(steps, n, 12)`.
    """
    monitor = Transfer(horizon, adapts)
    n = gradients.shape[1]
    variables = [
        (keras.Variable(np.zeros(SHAPE, "float32")),) for _ in range(n)
    ]
    state = {
        name: keras.ops.full(spec.shape, spec.initial, spec.dtype)
        for name, spec in monitor.init(
            [
                Component(str(i), "query", "b", v)
                for i, v in enumerate(variables)
            ]
        ).items()
    }

    def step(state, gradients, values):
        for (variable,), value in zip(variables, values):
            variable.assign(value)
        given = [(g,) for g in gradients]
        carry = monitor.before(state, given, variables)
        return monitor.after(state, carry, variables)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        step = tf.function(step, autograph=False)
    found = []
    for rows in zip(gradients, weights):
        given, values = (
            [keras.ops.array(r.reshape(SHAPE), "float32") for r in each]
            for each in rows
        )
        statistic, state = step(state, given, values)
        found.append(keras.ops.convert_to_numpy(statistic))
    found = np.array(found)
    return np.where(found == np.float32(UNDEFINED), np.nan, found)


@pytest.mark.everywhere
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    drift=st.floats(-1, 1),
    adapts=st.booleans(),
    # The longer it is, the fewer of them are in a short window.
    part=st.sampled_from([3, 4, 5, 10]),
    speeds=st.sampled_from([[1e-3] * 3, [1e-3, 0.1, 0.1], [0.1, 1e-3, 1e-3]]),
)
def test_same_as_written_out(seed, drift, adapts, part, speeds):
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((STEPS, 3, 12)) + drift
    steps = rng.standard_normal((STEPS, 3, 12)) - gradients
    weights = 1 + np.array(speeds)[:, None] * np.cumsum(steps, axis=0)
    weights = weights.astype("float32")
    found = measure(gradients, weights, 12 * part, adapts)
    expected = [
        reference.transfer(
            [
                (gradients[:t, i], weights[:t, i].astype("float64"))
                for i in range(3)
            ],
            part,
            adapts=adapts,
        )
        # Between the ends of two parts it stays as it is.
        for t in range(1, STEPS + 1)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def descend(noise, steps=400, rate=0.02):
    """Noisy gradient descent on a bowl, from far away."""
    rng = np.random.default_rng(0)
    x, gradients, weights = np.full(12, 3.0), [], []
    for _ in range(steps):
        weights.append(x)
        gradients.append(x + noise * rng.standard_normal(12))
        x = x - rate * gradients[-1]
    return np.array(gradients)[:, None], np.array(weights)[:, None]


def test_positive_while_it_descends_and_then_not():
    found = measure(*descend(noise=1.0), horizon=60)[:, 0]
    assert (found[134:170] > 0.5).all()
    assert found[379:].mean() < 0.1 < found[250]


def test_one_bad_batch_spoils_no_window():
    gradients, weights = descend(noise=1.0, steps=100)
    gradients[40] = np.nan
    found = measure(gradients, weights)
    assert np.isfinite(found[27 * LEAST_PART :]).all()


def test_large_matrices_are_sampled_and_lora_pairs_are_shared():
    rng = np.random.default_rng(0)
    monitor = Transfer(30)
    shapes = [[(512, 384), (384,)], [(512, 8), (8, 384)], [(3,)], [(2, 2)]]
    components = [
        Component(
            str(i),
            "query",
            "b",
            tuple(
                keras.Variable(rng.standard_normal(s).astype("float32"))
                for s in shape
            ),
        )
        for i, shape in enumerate(shapes)
    ]
    variables = [c.variables for c in components]
    values = [[keras.ops.convert_to_tensor(v) for v in g] for g in variables]
    rows, _ = monitor.before({}, values, variables)
    rows = keras.ops.convert_to_numpy(rows)
    assert rows.shape == (4, ENTRIES)
    used = np.count_nonzero(rows, axis=1)
    assert ENTRIES / 2 < used[0] <= ENTRIES
    assert ENTRIES / 2 < used[1] <= ENTRIES
    assert used[2:].tolist() == [3, 4]
    kernel = keras.ops.convert_to_numpy(variables[0][0])
    assert np.isin(rows[0][: used[0]], kernel).all()


def test_state_is_small():
    specs = Transfer(100).init(
        [Component(str(i), "query", "b", ()) for i in range(2)]
    )
    entries = sum(int(np.prod(spec.shape)) for spec in specs.values()) / 2
    # A matrix of BERT base has at least 768 times 768.
    assert entries < 0.01 * 768 * 768


# What a plan makes of it.


def resolved(total_steps, steps_per_epoch=None, decays=False, **arguments):
    found = [Component("query", "query", "block", ())]
    outlook = Outlook(total_steps, steps_per_epoch, decays=decays)
    return FreezePolicy(monitor="transfer", **arguments).resolve(found, outlook)


def test_horizon():
    # Two epochs; half of the plan; what is known; in parts.
    assert resolved(6000, 600).monitor.part == 100
    assert resolved(1200, 600).monitor.part == 50
    assert resolved(600, 600).monitor.part == 25
    assert resolved(1200).monitor.part == 50
    assert resolved(None, 60).monitor.part == 10
    assert resolved(None).monitor.part == 42
    assert resolved(10, 2).monitor.part == LEAST_PART
    assert resolved(6000, 600, horizon=1.5).monitor.part == 75
    assert resolved(6000, 600, horizon=120).monitor.part == 10
    assert resolved(None, None, horizon=120).monitor.part == 10
    # A sixth of it.
    assert resolved(6000, 600).criterion.patience == 200
    assert resolved(6000, 600).monitor.adapts
    assert not resolved(6000, 600, horizon=2.0).monitor.adapts
    with pytest.raises(ValueError, match=r"length of an epoch.*horizon=1\.5"):
        resolved(6000, None, horizon=1.5)


def test_deadline():
    assert resolved(300).criterion.deadline == 240
    assert resolved(300, cooldown=0.5).criterion.deadline == 200
    assert resolved(300, cooldown=1.0).criterion.deadline == 150
    assert resolved(7).criterion.deadline == 6  # And one step to settle.
    assert resolved(3).criterion.deadline == 3
    assert resolved(300, cooldown=50).criterion.deadline == 250
    late = resolved(300, alpha=0.9)
    assert late.criterion.deadline == 270
    # It settles within the 30 steps that are left.
    assert late.action.rest_at(np.array([270]), np).tolist() == [300]
    assert resolved(300, decays=True).criterion.deadline is None
    assert resolved(None).criterion.deadline is None
    assert resolved(300, decays=True, cooldown=500).action.cooldown == 500
    with pytest.raises(ValueError, match=r"cooldown=300, with 300 steps"):
        resolved(300, cooldown=300)


def test_an_open_plan_is_no_deadline():
    found = [Component("query", "query", "block", ())]
    policy = FreezePolicy(monitor="transfer")
    one = policy.resolve(found, Outlook(600, 600))
    assert one.criterion.deadline == 480
    assert one.monitor.part == 300 // 12
    several = policy.resolve(found, Outlook(600, 600, is_open=True))
    assert several.criterion.deadline is None
    assert several.monitor.part == 1200 // 12


def test_what_takes_no_part_is_not_compared_with():
    """Towers that take turns: one ends a window where the other is idle."""
    gradients, weights = descend(noise=1.0, steps=100)
    alone = measure(gradients, weights)
    gradients = np.concatenate([gradients, 0 * gradients], axis=1)
    weights = np.concatenate([weights, 100 * weights], axis=1)
    np.testing.assert_allclose(
        measure(gradients, weights)[:, :1], alone, rtol=1e-5
    )


# In training.


def compiled(optimizer, blocks=2, **arguments):
    model = small.transformer(blocks)
    model.compile(optimizer, small.loss(), **arguments)
    return model


def fit(model, grades, steps, epochs=1, batch_size=4, turns_at=None):
    x, y = data(steps, turns_at)
    model.fit(
        x,
        y,
        batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[grades],
    )
    return [c.frozen_at for c in grades.components]


def data(steps, turns_at):
    """Labels that are noise, or a rule that changes at a step."""
    if turns_at is None:
        return small.data(steps)
    return small.turning(steps, turns_at)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "adamw": lambda: keras.optimizers.AdamW(
        0.005, weight_decay=0.2, global_clipnorm=0.5
    ),
}


@pytest.mark.everywhere
@pytest.mark.parametrize(
    ("optimizer", "recompile", "steps", "epochs", "turns_at", "deadline"),
    [
        # What was learned does not help any more; or it is time.
        pytest.param(
            *("sgd", "always", 190, 1, 80, None),
            marks=marks_long_on("tensorflow"),
        ),
        pytest.param(
            *("adamw", "never", 20, 6, None, 96),
            marks=marks_long_on("tensorflow"),
        ),
        # On TensorFlow the plain loop is eager: with AdamW that takes long.
        pytest.param(
            *("adamw", "always", 20, 3, None, 48),
            marks=marks_long_on("tensorflow"),
        ),
        pytest.param(
            *("sgd", "always", 20, 3, None, 48),
            marks=marks_long_on("jax", "torch"),
        ),
    ],
)
def test_same_as_a_plain_loop(
    optimizer, recompile, steps, epochs, turns_at, deadline
):
    model = small.transformer()
    components = find_components(model)
    converged_at, frozen_at, trace, last = reference.train_until_settled(
        model,
        OPTIMIZERS[optimizer](),
        small.loss(),
        small.batches(*data(steps, turns_at)) * epochs,
        [c.variables for c in components],
        [c.block for c in components],
        part=LEAST_PART,
        patience=2 * LEAST_PART,
        cooldown=0.25,
        deadline=deadline,
    )
    assert 0 < converged_at < frozen_at[0] < frozen_at[-1]
    assert (converged_at == deadline) == (deadline is not None)
    fitted = compiled(OPTIMIZERS[optimizer]())
    grades = GradES(
        monitor="transfer", horizon=36, recompile=recompile, verbose=0
    )
    found = fit(fitted, grades, steps, epochs, turns_at=turns_at)
    assert found == frozen_at
    assert grades.stopped_step == last
    np.testing.assert_allclose(
        grades.trace["statistic"][: len(trace)], trace, rtol=1e-3, atol=1e-4
    )
    for actual, expected in zip(small.weights(fitted), small.weights(model)):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_without_a_cooldown_it_stops_at_the_step_at_which_it_converges():
    model = compiled(OPTIMIZERS["sgd"](), blocks=1)
    grades = GradES(monitor="transfer", horizon=36, cooldown=0, verbose=0)
    frozen_at = fit(model, grades, 190, turns_at=80)
    assert 80 < frozen_at[0] < 190
    assert set(frozen_at) == {grades.stopped_step}


def test_at_a_constant_rate_it_settles_by_the_end_of_the_plan():
    grades = GradES(monitor="transfer", verbose=0)
    frozen_at = fit(compiled(keras.optimizers.Adam(1e-5)), grades, 20, 3)
    # Nothing is learned yet: it begins to settle when it must.
    assert frozen_at[0] == 48 + 6 and frozen_at[-1] == 48 + 12
    assert grades.stopped_step == 60


def test_a_rate_that_decays_has_no_deadline():
    schedule = keras.optimizers.schedules.CosineDecay(1e-5, 60)
    grades = GradES(monitor="transfer", verbose=0)
    fit(compiled(keras.optimizers.Adam(schedule)), grades, 20, 3)
    assert grades._run.optimizer.rule.criterion.deadline is None
    warm_up = keras.optimizers.schedules.PiecewiseConstantDecay(
        [30], [1e-6, 1e-5]
    )
    grades = GradES(monitor="transfer", verbose=0)
    fit(compiled(keras.optimizers.Adam(warm_up)), grades, 20, 3)
    assert grades._run.optimizer.rule.criterion.deadline == 48


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "arguments",
    [
        {"use_ema": True},
        {"gradient_accumulation_steps": 2},
        {"clipnorm": 0.1},
    ],
    ids=str,
)
def test_it_settles_with(arguments):
    model = compiled(keras.optimizers.Adam(0.001, **arguments))
    model.layers[-1].kernel.constraint = keras.constraints.NonNeg()
    grades = GradES(monitor="transfer", verbose=0)
    frozen_at = fit(model, grades, 20, 4)
    assert all(frozen_at)
    steps = 80 // arguments.get("gradient_accumulation_steps", 1)
    assert grades.stopped_step <= steps
    if not model.optimizer.use_ema:  # An average goes back to the beginning.
        assert (model.layers[-1].kernel.numpy() >= 0).all()


def test_it_counts_updates_where_gradients_accumulate():
    """The mean gradient of two batches is that of one twice as large."""

    def freeze_steps(batch_size, **arguments):
        optimizer = keras.optimizers.SGD(0.02, momentum=0.9, **arguments)
        grades = GradES(monitor="transfer", horizon=36, verbose=0)
        model = compiled(optimizer, blocks=1)
        frozen_at = fit(model, grades, 400, 1, batch_size, turns_at=120)
        return frozen_at, grades.trace["statistic"]

    frozen_at, statistic = freeze_steps(8)
    assert frozen_at[0] < 160  # The deadline.
    found = freeze_steps(4, gradient_accumulation_steps=2)
    assert found[0] == frozen_at
    np.testing.assert_allclose(found[1], statistic, rtol=1e-3, atol=1e-4)


def test_inside_loss_scaling():
    def freeze_steps(wrap):
        model = compiled(
            wrap(keras.optimizers.SGD(0.02, momentum=0.9)), blocks=1
        )
        grades = GradES(monitor="transfer", horizon=36, verbose=0)
        return fit(model, grades, 200, turns_at=80)

    expected = freeze_steps(lambda inner: inner)
    scaled = freeze_steps(
        lambda inner: keras.optimizers.LossScaleOptimizer(inner, 2.0, 30)
    )
    assert scaled == expected and expected[0] < 160  # The deadline.


@pytest.mark.everywhere
@pytest.mark.parametrize("saved_at", [105, 130])
def test_it_goes_on_from_a_file(tmp_path, saved_at):
    """From before it converges, and from where it settles."""

    def new():
        return compiled(keras.optimizers.SGD(0.02, momentum=0.9), blocks=1)

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.save(tmp_path / "model.keras")

    x, y = small.turning(saved_at, 80)
    arguments = {"epochs": 3, "shuffle": False, "verbose": 0}
    settles = {"monitor": "transfer", "horizon": 36, "cooldown": 0.5}
    model, grades = new(), GradES(**settles, verbose=0)
    model.fit(x, y, 4, callbacks=[grades, Save()], **arguments)
    converged_at = int(grades._run.optimizer._state["converged_at"][0])
    assert (converged_at > saved_at) == (saved_at == 105)
    assert saved_at < grades.stopped_step < 2 * saved_at
    again = keras.saving.load_model(tmp_path / "model.keras")
    resumed = GradES(**settles, verbose=0)
    again.fit(x, y, 4, initial_epoch=1, callbacks=[resumed], **arguments)
    assert [c.frozen_at for c in resumed.components] == [
        c.frozen_at for c in grades.components
    ]
    for actual, expected in zip(small.weights(again), small.weights(model)):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_in_a_custom_loop_horizon_may_be_in_epochs():
    components = find_components(small.transformer())
    optimizer = GradESOptimizer(
        keras.optimizers.SGD(),
        components,
        monitor="transfer",
        horizon=1.5,
        steps_per_epoch=100,
        total_steps=1000,
    )
    assert optimizer.rule.monitor.part == 12
    with pytest.raises(ValueError, match="length of an epoch is unknown"):
        GradESOptimizer(
            keras.optimizers.SGD(), components, monitor="transfer", horizon=1.5
        )


def test_a_later_rise_of_the_rate_leaves_the_monitor_ready():
    """`extend` applies the policy once more, to an optimizer that is built."""
    model = small.transformer(blocks=1)
    rise = keras.optimizers.schedules.PiecewiseConstantDecay([50], [1e-5, 1e-4])
    optimizer = GradESOptimizer(
        keras.optimizers.SGD(rise),
        find_components(model),
        monitor="transfer",
        horizon=36,
        total_steps=40,
    )
    variables = model.trainable_variables
    optimizer.build(variables)
    monitor = optimizer.rule.monitor
    assert optimizer.extend(100)
    assert optimizer.rule.monitor is monitor
    assert optimizer.rule.criterion.deadline == 80
    assert not optimizer.extend(100)
    assert optimizer.extend(100, is_open=True)
    assert optimizer.rule.criterion.deadline is None
    gradients = [keras.ops.ones(v.shape) for v in variables]
    for _ in range(2):
        optimizer.apply(gradients, variables)
    assert int(optimizer.own_iterations) == 2


@pytest.mark.parametrize("decays", [False, True])
def test_the_default_goes_by_the_learning_rate(decays, capsys):
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 60) if decays else 1e-5
    grades = GradES(verbose=1)
    fit(compiled(keras.optimizers.Adam(rate), blocks=1), grades, 20, 3)
    begin, *_, end = capsys.readouterr().out.splitlines()
    if decays:
        assert grades.report.settings["monitor"] == "relative_change"
        assert "by relative_change; nothing freezes before step 10" in begin
    else:
        assert grades.report.settings["monitor"] == "transfer"
        assert "by transfer; all settle from step 48 of 60 on" in begin
        assert end.endswith("They settled from step 48 on, by the plan.")


def test_what_learns_nothing_is_not_stopped():
    """Labels are noise: what is learned of them never helps others."""
    grades = GradES(monitor="transfer", horizon=36, verbose=0)
    model = compiled(keras.optimizers.SGD(0.05, momentum=0.9))
    fit(model, grades, 20, 6)
    mean = np.nanmean(grades.trace["statistic"][80:96], axis=1)
    assert (mean < 0).all()
    assert grades.stopped_step == 120  # As planned.


def test_it_says_why_it_stopped_and_why_nothing_froze(capsys):
    noise = GradES(horizon=36, verbose=1)
    fit(compiled(keras.optimizers.SGD(0.05, momentum=0.9)), noise, 120, 2)
    begin, *_, end = capsys.readouterr().out.splitlines()
    assert "nothing freezes before step 91 of 240, and all settle" in begin
    assert "from step 192 on, or sooner." in begin
    assert "What was learned no longer helped from step" in end
    never = GradES(1e-30, alpha=0, verbose=1)
    fit(compiled(keras.optimizers.Adam(1e-3)), never, 5)
    end = capsys.readouterr().out.splitlines()[-1]
    assert "None has converged" in end and "larger tau" in end


@pytest.mark.parametrize("arguments", [{}, {"horizon": 36}])
def test_it_says_what_it_guesses(arguments, capsys):
    """A generator does not tell when it ends."""
    model = compiled(keras.optimizers.Adam(1e-5), blocks=1)
    batches = small.batches(*small.data(3))
    grades = GradES(**arguments, verbose=1)
    model.fit((b for b in batches), callbacks=[grades], verbose=0)
    begin = capsys.readouterr().out.splitlines()[0]
    assert ("over 500 steps, since neither" in begin) == (not arguments)


def test_a_loop_of_fits_learns_on_after_each_plan():
    """The first ends settled. From the second on they are known for a loop."""
    model = compiled(keras.optimizers.Adam(1e-5), blocks=1)
    grades, before = GradES(verbose=0), small.weights(model)
    for epoch in range(4):
        arguments = {"initial_epoch": epoch, "epochs": epoch + 1}
        small.fit(model, grades, batches=20, **arguments)
        is_first = epoch == 0
        assert all(bool(c.frozen_at) == is_first for c in grades.components)
        # The second begins anew; others go on from it.
        assert grades.report.steps == (20 if is_first else 20 * epoch)
        assert int(model.optimizer.iterations) == 20 * (epoch + 1)
        after = small.weights(model)
        assert all((a != b).any() for a, b in zip(after, before))
        before = after


def test_more_epochs_move_the_deadline():
    model, grades = compiled(keras.optimizers.Adam(1e-5), 1), GradES(verbose=0)
    x, y = small.data(20)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 0

    def go_on(first, last, *callbacks):
        model.fit(
            x,
            y,
            4,
            initial_epoch=first,
            epochs=last,
            verbose=0,
            callbacks=[grades, *callbacks],
        )

    go_on(0, 3, Stop())
    assert grades.report.steps == 20
    go_on(1, 6)
    assert grades.total_steps == grades.stopped_step == 120
    # A block, of one.
    assert {c.frozen_at for c in grades.components} == {96 + 24}


def test_what_settles_rests_by_the_end_of_a_new_plan():
    """Interrupted while it settles, without a plan; the next one is short."""
    model = compiled(OPTIMIZERS["sgd"]())
    grades = GradES(
        monitor="transfer",
        horizon=36,
        cooldown=1.0,
        max_frozen_ratio=0.5,
        verbose=0,
    )
    x, y = small.turning(190, 80)

    def interrupt(batch, logs):
        if grades._run._converged_at.any():
            raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_train_batch_begin=interrupt)
    with pytest.raises(KeyboardInterrupt):
        endless = (batch for batch in small.batches(x, y))
        model.fit(endless, epochs=2, verbose=0, callbacks=[grades, stop])
    begins_at = grades.report.steps
    assert not grades.report.frozen
    x, y = small.data(40)
    model.fit(x, y, 4, initial_epoch=1, epochs=2, verbose=0, callbacks=[grades])
    frozen_at = [c.frozen_at for c in grades.components]
    assert frozen_at == [grades.stopped_step] * 6 + [None] * 6
    assert begins_at + 16 < grades.stopped_step < begins_at + 30


class Interrupt(keras.callbacks.Callback):
    """Interrupts training after so many steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at, epoch", [(40, 4), (50, 5), (53, 5)])
def test_an_interrupted_run_keeps_its_deadline(capsys, at, epoch):
    """Its last epoch is one, but none of a loop; it may settle already."""
    model, grades = compiled(keras.optimizers.Adam(1e-5), 1), GradES(verbose=1)
    x, y = small.data(10)
    arguments = {"batch_size": 4, "epochs": 6, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, callbacks=[grades, Interrupt(at)], **arguments)
    arguments["initial_epoch"] = epoch
    model.fit(x, y, callbacks=[grades], **arguments)
    assert {c.frozen_at for c in grades.components} == {48 + 12}
    assert grades.stopped_step == grades.total_steps == 60
    said = capsys.readouterr().out.splitlines()[-1]
    assert "ended at step 60 of 60" in said and "48 on, by the plan" in said
    # That was the end of the plan, so another one begins anew.
    model.fit(
        x, y, 4, initial_epoch=6, epochs=12, verbose=0, callbacks=[grades]
    )
    assert grades.report.steps == 60
    assert {c.frozen_at for c in grades.components} == {48 + 12}


def test_the_same_call_once_more_begins_anew():
    """It ends later than that which was interrupted would have."""
    model, grades = compiled(keras.optimizers.Adam(1e-5), 1), GradES(verbose=0)
    x, y = small.data(10)
    arguments = {"initial_epoch": 6, "epochs": 12, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, 4, callbacks=[grades, Interrupt(55)], **arguments)
    model.fit(x, y, 4, callbacks=[grades], **arguments)
    assert {c.frozen_at for c in grades.components} == {48 + 12}
    assert int(model.optimizer.iterations) == 55 + 60
