"""How large updates are compared with what they were."""

import keras
import numpy as np
import pytest
import reference
import small
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades import find_components
from keras_grades.monitors import UNDEFINED
from keras_grades.monitors.relative_change import RelativeChange
from keras_grades.monitors.relative_change import relative
from keras_grades.monitors.sample import SAMPLE
from keras_grades.monitors.sample import grid
from keras_grades.monitors.sample import of_matrices
from keras_grades.policy import DEFAULTS
from keras_grades.policy import FreezePolicy

pytestmark = pytest.mark.alike

AUTO = DEFAULTS["relative_change"]


def by_itself():
    return GradES(monitor="relative_change", verbose=0)


def ratios(sizes):
    """Steps through `relative`, with one component; what it measures."""
    state = [
        np.zeros(1, "int32"),
        np.zeros(1, "float32"),
        np.zeros(1, "float32"),
    ]
    found = []
    for size in sizes:
        ratio, *state = relative(
            keras.ops.convert_to_tensor(np.float32([size])),
            *[keras.ops.convert_to_tensor(s) for s in state],
        )
        found.append(float(ratio[0]))
    found = np.array(found)
    # Infinity, too, is no ratio.
    known = np.isfinite(found) & (found != UNDEFINED)
    return np.where(known, found, np.nan)


def freezes_by_itself(sizes):
    """Whether `tau="auto"` would freeze a component with such updates."""
    below = 0
    for ratio in ratios(sizes):
        below = below + 1 if ratio < AUTO["tau"] else 0
        if below > AUTO["patience"]:
            return True
    return False


SIZES = st.one_of(
    st.just(0.0),
    st.floats(2.0**-90, 2.0**90, width=32),
    st.sampled_from([np.nan, np.inf]),
)


@pytest.mark.everywhere
@example([0.0, 0.0, 1.0, 0.0])
@example([2.0**-90, 2.0**90, 1.0])
@settings(max_examples=30, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=40))
def test_same_as_written_out(sizes):
    expected = [
        reference.relative_change(np.float64(np.float32(sizes[: t + 1])))
        for t in range(len(sizes))
    ]
    np.testing.assert_allclose(ratios(sizes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_has_no_scale(scale):
    sizes = np.exp(np.random.default_rng(0).standard_normal(100))
    np.testing.assert_allclose(ratios(scale * sizes), ratios(sizes), rtol=1e-3)


def noisy(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return sizes * np.exp(0.5 * rng.standard_normal(len(sizes)))


def test_what_goes_on_is_not_frozen():
    assert not freezes_by_itself(noisy(np.ones(2000)))


def test_what_has_shrunk_is_frozen():
    sizes = noisy(np.concatenate([np.ones(200), np.full(100, 0.05)]))
    assert not freezes_by_itself(sizes[:210])
    assert freezes_by_itself(sizes[:240])


@pytest.mark.everywhere
def test_what_decays_is_frozen():
    """As with a learning rate that falls to 0, and nothing else."""
    sizes = noisy(np.linspace(1, 0, 1000))
    assert not freezes_by_itself(sizes[:700])
    assert freezes_by_itself(sizes)


@pytest.mark.parametrize("warm_up", [np.linspace(0, 1, 100), np.zeros(100)])
def test_a_warm_up_freezes_nothing(warm_up):
    assert not freezes_by_itself(np.concatenate([warm_up, np.ones(500)]))


@pytest.mark.parametrize("bad", [0.0, 1e-9, 1e-4, 1e4, np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 1, 25, 150])
def test_one_bad_batch_freezes_nothing(bad, at):
    sizes = noisy(np.ones(400))
    sizes[at] = bad
    assert not freezes_by_itself(sizes)


def test_what_never_moves_is_unknown():
    assert np.isnan(ratios(np.zeros(50))).all()


def variables_of(*shapes):
    return [keras.Variable(np.ones(s, "float32")) for s in shapes]


def size_of_update(variables, update):
    """The size of the first update of one component, by the monitor."""
    monitor = RelativeChange()
    state = {
        name: keras.ops.zeros(spec.shape, spec.dtype)
        for name, spec in monitor.init([None]).items()
    }
    carry = monitor.before(state, [()], [tuple(variables)])
    update()
    _, state = monitor.after(state, carry, [tuple(variables)])
    return float(np.exp(keras.ops.convert_to_numpy(state["log_mean"])[0]))


@pytest.mark.parametrize(
    "shape", [(512, 512), (384, 12, 32), (1000, 999), (3, 70000), (90001, 8)]
)
def test_a_sample_stands_for_all(shape):
    rng = np.random.default_rng(0)
    (variable,) = variables_of(shape)
    # Some rows and some columns move far more than others.
    update = rng.standard_normal(shape)
    update *= np.exp(rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1)))
    update *= np.exp(rng.standard_normal(shape[-1:]))
    size = size_of_update(
        [variable],
        lambda: variable.assign(variable.numpy() + update.astype("float32")),
    )
    assert size == pytest.approx(np.abs(update).sum(), rel=0.5)


@pytest.mark.parametrize(
    "shape",
    [(512, 512), (384, 12, 32), (3, 70000), (90001, 8), (90001,), (4, 3), (1,)],
)
def test_the_sample_is_small(shape):
    entries = np.broadcast_to(np.float32(0), shape)[grid(shape)].size
    assert min(np.prod(shape), 0.7 * SAMPLE) <= entries <= SAMPLE


@pytest.mark.parametrize(
    "shape", [(8, 4096, 14336), (384, 12, 32), (40, 9, 70)]
)
def test_no_expert_and_no_head_is_passed_over(shape):
    along_shortest = grid(shape, 256)[int(np.argmin(shape))]
    assert along_shortest.step == 1
    entries = np.broadcast_to(np.float32(0), shape)[grid(shape, 256)].size
    assert 0.7 * 256 <= entries <= 256


def size_of_twos(*shapes):
    variables = variables_of(*shapes)
    return size_of_update(
        variables, lambda: [v.assign(v + 2) for v in variables]
    )


def test_small_matrices_count_whole_and_their_biases_go_with_them():
    assert size_of_twos((4, 5), (5,), (5, 3)) == pytest.approx(2 * (20 + 15))


def test_a_bias_of_heads_is_none_of_the_matrices():
    """That of a `keras.layers.MultiHeadAttention` has two axes."""
    attention = keras.layers.MultiHeadAttention(2, 4)
    attention.build((None, 3, 8), (None, 3, 8))
    query = attention.query_dense
    assert query.bias.shape == (2, 4)
    assert of_matrices((query.kernel, query.bias)) == [0]
    query.enable_lora(2)
    pair = query.lora_kernel_a, query.lora_kernel_b
    assert of_matrices(pair) == [0, 1]


def test_a_bias_alone_counts():
    assert size_of_twos((5,)) == pytest.approx(10)


def fit(
    callback, rate_falls_at=40, epochs=4, batch=4, wrapper=None, **arguments
):
    """Adam, 25 steps of 4 examples an epoch; when what froze."""
    model = small.transformer()
    optimizer = keras.optimizers.Adam(0.01, **arguments)
    if wrapper is not None:
        optimizer = wrapper(optimizer)
    model.compile(optimizer, small.loss(), auto_scale_loss=False)
    x, y = small.data(25)

    def lower(epoch, rate):
        return 0.01 if epoch * 25 < rate_falls_at else 1e-4

    model.fit(
        x,
        y,
        batch,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[callback, keras.callbacks.LearningRateScheduler(lower)],
    )
    return [c.frozen_at for c in callback.components]


def test_auto_needs_no_number():
    """The learning rate falls by a hundred at step 50; all freeze, then it
    stops."""
    auto = by_itself()
    frozen_at = fit(auto)
    assert all(50 + 10 < step < 100 for step in frozen_at)
    assert auto.stopped_step is not None
    own = GradES(0.5, monitor="relative_change", verbose=0)
    assert fit(own) == frozen_at


def test_auto_freezes_nothing_while_it_goes_on():
    auto = by_itself()
    assert fit(auto, rate_falls_at=1000) == [None] * 12
    assert auto.stopped_step is None


def test_auto_counts_updates_where_gradients_accumulate():
    """The mean gradient of two batches is that of one twice as large."""
    auto = by_itself()
    arguments = {"rate_falls_at": 80, "epochs": 12}
    one = fit(auto, batch=4, **arguments)
    assert all(100 + 10 < step < 300 for step in one)
    two = by_itself()
    assert fit(two, batch=2, gradient_accumulation_steps=2, **arguments) == one


def test_auto_inside_loss_scaling():
    auto = by_itself()
    expected = fit(auto)
    assert all(50 + 10 < step < 100 for step in expected)
    scaled = by_itself()

    def wrapper(inner):
        # It doubles now and then; weights stay the same, but for rounding.
        return keras.optimizers.LossScaleOptimizer(inner, 2.0, 30)

    assert fit(scaled, wrapper=wrapper) == expected


@pytest.mark.parametrize("monitor", list(DEFAULTS))
def test_auto_in_a_config(monitor):
    model = small.transformer()
    optimizer = GradESOptimizer(
        keras.optimizers.Adam(), find_components(model), monitor=monitor
    )
    optimizer.build(model.trainable_variables)
    again = GradESOptimizer.from_config(optimizer.get_config())
    again.build(model.trainable_variables)
    assert again.get_config() == optimizer.get_config()
    for name in ("alpha", "patience", "cooldown"):
        assert getattr(again.policy, name) == DEFAULTS[monitor][name]
    assert again.rule.tau.tolist() == [DEFAULTS[monitor]["tau"]] * 12


def test_auto_takes_other_numbers():
    policy = FreezePolicy(
        tau="auto", monitor="relative_change", alpha=0.25, patience=3
    )
    assert policy.tau == DEFAULTS["relative_change"]["tau"]
    assert policy.alpha == 0.25 and policy.patience == 3
    paper = FreezePolicy(
        tau=1.0, alpha=0.5, monitor="gradient", norm="l1", patience=0
    )
    assert FreezePolicy(tau=1.0) == paper


def test_auto_is_of_one_monitor():
    for arguments in ({}, {"tau": "auto"}):
        with pytest.raises(ValueError, match=r"tau='auto', monitor='gradient'"):
            GradES(monitor="gradient", **arguments)
    for monitor in DEFAULTS:
        GradES("auto", monitor=monitor)
    with pytest.raises(TypeError, match=r"'auto'\. Received: tau='Auto'"):
        GradES("Auto")
