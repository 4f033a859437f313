"""Components that froze too early are released."""

import keras
import numpy as np
import pytest
import reference
import small
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades import GradES
from keras_grades import find_components
from keras_grades.rule import MAX_THAWS
from keras_grades.rule import decide
from keras_grades.rule import release
from keras_grades.trace import Trace


def states(statistics, tau=1.0, patience=0, interval=1, grace_steps=0):
    """Steps through the rule with `thaw`; where it is frozen after each."""
    tensor = keras.ops.convert_to_tensor
    below, converged_at, frozen_at, above, thaws = (
        tensor(np.zeros(1, "int32")) for _ in range(5)
    )
    found = []
    for step, value in enumerate(statistics, start=1):
        statistic = tensor(np.float32([value]))
        numbers = {"patience": patience, "interval": interval}
        below, converged_at, frozen_at = decide(
            statistic,
            below,
            converged_at,
            frozen_at,
            step,
            tensor(np.float32([tau])),
            grace_steps=grace_steps,
            **numbers,
        )
        above, thaws, converged_at, frozen_at = release(
            statistic,
            above,
            thaws,
            converged_at,
            frozen_at,
            step,
            tensor(np.float32([tau])),
            **numbers,
        )
        found.append(int(frozen_at[0]))
    return found


def written_out(statistics, tau, patience, interval, grace_steps):
    """The same, one component, in plain Python."""
    below = above = thaws = frozen_at = 0
    found = []
    for t, s in enumerate(statistics, start=1):
        if t % interval == 0:
            below = below + 1 if s < tau else 0
            if not frozen_at and t >= grace_steps and below > patience:
                frozen_at = t
            last = frozen_at + frozen_at // 10 + (patience + 1) * interval
            if frozen_at and t <= last and thaws < 3 and 2 * tau <= s < np.inf:
                above += 1
            else:
                above = 0
            if above > patience:
                frozen_at = above = 0
                thaws += 1
        found.append(frozen_at)
    return found


def test_is_released_when_clearly_high_again():
    assert states([9] * 9 + [0, 1.5, 2.0, 0]) == [0] * 9 + [10, 10, 0, 13]


def test_needs_patience_too():
    assert states([0, 0, 2, 2, 2], patience=1) == [0, 2, 2, 0, 0]
    assert states([0, 0, 2, 0, 2], patience=1) == [0, 2, 2, 2, 2]


def test_is_frozen_for_good_after_a_tenth():
    late = [9] * 19 + [0] + [0] * 3 + [9] * 5
    assert states(late)[-1] == 20
    in_time = [9] * 19 + [0] + [0] * 2 + [9] * 5
    assert states(in_time)[-1] == 0


def test_is_released_a_few_times_only():
    found = states([9] * 99 + [0, 9] * 6)
    assert found[-1] == 100 + 2 * MAX_THAWS
    assert found.count(0) == 99 + MAX_THAWS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_high(bad):
    assert states([9] * 9 + [0, bad])[-1] == 10


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.sampled_from([0, 1.5, 2, 9, np.nan, np.inf]), min_size=1, max_size=25
    ),
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_same_as_written_out(statistics, patience, interval, grace_steps):
    numbers = (1.0, patience, interval, grace_steps)
    assert states(statistics, *numbers) == written_out(statistics, *numbers)


class GoesOn(GradES):
    """Does not end when all are frozen for good."""

    def _is_enough(self):
        return False


STEPS = 40
# Of these steps the examples have no weight: there is no gradient.
EMPTY = range(20, 24)


def weighted_data():
    x, y = small.data(STEPS)
    weights = np.ones((STEPS, 4), "float32")
    weights[EMPTY] = 0
    return x, y, weights.reshape(-1)


@pytest.mark.parametrize(
    "monitor, recompile", [("gradient", "always"), ("weight_change", "never")]
)
def test_trains_like_a_plain_loop(monitor, recompile):
    """All freeze at step 22 and are released, but not from step 27 on."""
    agrees_with_a_plain_loop(
        lambda: keras.optimizers.SGD(0.05),
        monitor=monitor,
        recompile=recompile,
        components="attention",
    )


def test_thaws_with_what_lies_below():
    """The norms of the lowest block go with it."""
    agrees_with_a_plain_loop(
        lambda: keras.optimizers.SGD(0.05),
        components="block_0",
        truncate_backward=True,
        held=lambda v: "block_0" in v.path,
    )


def test_thaws_with_averages():
    """The average of what is frozen is its value, and goes on from there."""
    agrees_with_a_plain_loop(
        lambda: keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.8),
        components="attention",
    )


def test_thaws_inside_loss_scaling():
    agrees_with_a_plain_loop(
        lambda: keras.optimizers.SGD(0.05),
        wrapper=lambda inner: keras.optimizers.LossScaleOptimizer(inner, 8.0),
        components="attention",
    )


def test_what_has_cooled_down_thaws_to_whole_updates():
    """Two steps of cooldown, two of rest; momentum moves it meanwhile."""
    share = {23: 2 / 3, 24: 1 / 3, 25: 0, 26: 0}
    agrees_with_a_plain_loop(
        lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        cooldown=2,
        share=share,
        held=lambda v: True,  # All else goes by the mean of the factors.
        components="attention",
    )


def agrees_with_a_plain_loop(
    make,
    held=None,
    share=None,
    wrapper=lambda inner: inner,
    **arguments,
):
    """Whether all that freezes at step 22 is released after step 26.

    Args:
        make: Function that makes the optimizer.
        held: Function of a variable, whether it is held meanwhile. Defaults
            to those of the components.
        share: Dict from a step to the share of its update that is taken.
            Defaults to 0 from step 23 to 26.
        wrapper: Function that wraps the optimizer for `fit()`.
        **arguments: Of GradES.
    """
    x, y, weights = weighted_data()
    callback = GradES(
        1e-9, alpha=0, patience=1, thaw=True, verbose=0, **arguments
    )
    model = small.transformer()
    model.compile(wrapper(make()), small.loss(), auto_scale_loss=False)
    trained(model, (x, y, weights), callback)
    found = callback.components
    assert [c.frozen_at for c in found] == [None] * len(found)
    assert callback.report.thaws == [1] * len(found)

    plain = small.transformer()
    optimizer = make()
    variables = list(plain.trainable_variables)
    optimizer.build(variables)
    if held is None:
        own = find_components(plain, arguments["components"])
        ids = {id(v) for c in own for v in c.variables}
        places = [i for i, v in enumerate(variables) if id(v) in ids]
    else:
        places = [i for i, v in enumerate(variables) if held(v)]
    share = share or dict.fromkeys(range(23, 27), 0)
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    for t, (xs, ys, ws) in enumerate(batches(x, y, weights), start=1):
        grads = reference.gradients(plain, variables, xs, ys, small.loss(), ws)
        kept = [np.copy(reference.numpy(v)) for v in variables]
        reference.apply(optimizer, grads, variables)
        if t in share:
            for i in places:
                new = reference.numpy(variables[i])
                variables[i].assign(kept[i] + share[t] * (new - kept[i]))
                if averages:
                    averages[i].assign(variables[i].value)
    if averages:
        optimizer.finalize_variable_values(variables)
    for ours, theirs in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def trained(model, data, *callbacks, **fit_options):
    """The model, compiled unless it is, after `fit()` on weighted data."""
    x, y, weights = data
    if not model.compiled:
        model.compile(keras.optimizers.SGD(0.05), small.loss())
    model.fit(
        x,
        y,
        4,
        sample_weight=weights,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **fit_options,
    )
    return model


def batches(x, y, weights):
    for i in range(0, len(x), 4):
        yield x[i : i + 4], y[i : i + 4], weights[i : i + 4]


def test_what_is_on_probation_is_not_frozen_structurally():
    x, y, weights = weighted_data()
    callback = GoesOn(
        1e-9,
        alpha=0,
        patience=1,
        recompile="always",
        components="block_0",
        thaw=True,
        verbose=0,
    )
    trainable = {}

    def look(batch, logs):
        trainable[batch + 1] = {
            v.trainable for c in callback.components for v in c.variables
        }

    weights[4 * EMPTY[0] :] = 0  # They stay frozen.
    watch = keras.callbacks.LambdaCallback(on_train_batch_begin=look)
    trained(small.transformer(), (x, y, weights), callback, watch)
    assert {c.frozen_at for c in callback.components} == {22}
    # Until step 22 + 2 + 2 it can be released.
    assert all(trainable[t] == {True} for t in range(1, 27))
    assert trainable[STEPS] == {False}


def test_goes_on_from_a_checkpoint(tmp_path):
    """Interrupted while frozen on probation, after step 23."""
    x, y, weights = weighted_data()

    def fit(model, first, last, initial_epoch, epochs, callbacks):
        part = slice(4 * first, 4 * last)
        grades = GradES(
            1e-9,
            alpha=0,
            patience=1,
            components="attention",
            recompile="never",
            thaw=True,
            verbose=0,
        )
        trained(
            model,
            (x[part], y[part], weights[part]),
            grades,
            *callbacks,
            epochs=epochs,
            initial_epoch=initial_epoch,
        )
        return grades

    path = tmp_path / "model.keras"
    model = small.transformer()
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.save(path)
    )
    grades = fit(model, 0, 24, 0, 1, [save])
    assert {c.frozen_at for c in grades.components} == {22}
    model = keras.saving.load_model(path)
    grades = fit(model, 24, STEPS, 1, 2, [])
    assert {c.frozen_at for c in grades.components} == {None}


def test_stops_when_all_are_frozen_for_good():
    x, y, weights = weighted_data()
    weights[4 * EMPTY[0] :] = 0  # They stay frozen from step 22 on.
    stopped = {}
    for thaw in (False, True):
        callback = GradES(1e-9, alpha=0, patience=1, thaw=thaw, verbose=0)
        trained(small.transformer(), (x, y, weights), callback)
        assert {c.frozen_at for c in callback.components} == {22}
        assert callback.report.thaws == ([0] * 12 if thaw else None)
        stopped[thaw] = callback.stopped_step
    assert stopped == {False: 22, True: 27}


def test_what_is_not_released_again_needs_no_probation():
    callback = GradES(1e-9, thaw=True)
    callback.components = find_components(small.transformer(), "block_0")
    for component in callback.components:
        component.frozen_at = 100
    callback._trace = Trace(101, 6, 1)
    callback._thaws = np.array([0, 1, 2, 3, 3, 4])
    assert callback._settled().tolist() == [False] * 3 + [True] * 3


def test_there_is_a_report_from_the_start():
    found = []
    callback = GradES(1e-9, thaw=True, verbose=0)
    look = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: found.append(callback.report.thaws)
    )
    trained(small.transformer(), weighted_data(), callback, look)
    assert found == [[0] * 12]


def test_accumulated_gradients_are_refused():
    model = small.transformer()
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    model.compile(optimizer, small.loss())
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        model.fit(
            *small.data(4), 4, callbacks=[GradES(1.0, thaw=True)], verbose=0
        )
    assert model.optimizer is optimizer


def test_bad_argument():
    with pytest.raises(TypeError, match="thaw=1 of type int"):
        GradES(1.0, thaw=1)
