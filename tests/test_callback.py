"""`model.fit(callbacks=[GradES(...)])`: what it does to a run and a model."""

import flops
import keras
import numpy as np
import pytest
import reference
import small

import keras_grades
from keras_grades import GradES
from keras_grades import trace
from keras_grades.train_step import find_grades_optimizer

pytestmark = pytest.mark.alike

BATCHES = 10
HUGE, TINY = 1e30, 1e-30


def compiled(optimizer=None, **arguments):
    model = small.transformer()
    optimizer = optimizer or keras.optimizers.SGD(0.01)
    model.compile(optimizer, small.loss(), **arguments)
    return model


def fit(model, *callbacks, **arguments):
    x, y = small.data(BATCHES)
    arguments = {"batch_size": 4, "verbose": 0, **arguments}
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def attributes(model):
    """Those that `fit()` by itself does not add."""
    return set(vars(model)) - {
        "_eval_epoch_iterator",
        "_jax_state",
        "history",
    }


class Spy(keras.callbacks.Callback):
    """Calls a function with the model before each batch."""

    def __init__(self, look):
        super().__init__()
        self.look = look
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(self.look(self.model))


def test_stops_in_the_middle_of_an_epoch():
    model = compiled()
    grades = GradES(HUGE, alpha=13, verbose=0)
    history = fit(model, grades, epochs=3)
    assert grades.stopped_step == 13
    assert [c.frozen_at for c in grades.components] == [13] * 12
    assert int(model.optimizer.iterations) == 13
    assert history.history["frozen_ratio"] == [0.0, 1.0]


def test_grace_period_is_a_share_of_the_planned_steps():
    grades = GradES(HUGE, verbose=0)
    fit(compiled(), grades, epochs=2)
    assert grades.total_steps == 20
    assert grades.stopped_step == 10


def test_stops_at_max_frozen_ratio():
    tau = {"block_0": HUGE, "block_1": TINY}
    grades = GradES(tau, alpha=3, max_frozen_ratio=0.5, verbose=0)
    fit(compiled(), grades)
    assert grades.stopped_step == 3
    assert sum(c.frozen_at is None for c in grades.components) == 6


def test_stops_when_all_have_cooled_down():
    grades = GradES(HUGE, alpha=5, cooldown=4, verbose=0)
    fit(compiled(), grades)
    assert {c.frozen_at for c in grades.components} == {9}
    assert grades.stopped_step == 9


def test_does_not_stop_before_max_frozen_ratio():
    tau = {"block_0": HUGE, "block_1": TINY}
    grades = GradES(tau, alpha=3, max_frozen_ratio=0.51, verbose=0)
    history = fit(compiled(), grades)
    assert grades.stopped_step is None
    assert int(grades.model.optimizer.iterations) == BATCHES
    assert history.history["frozen_ratio"] == [0.5]


def test_freezes_structurally():
    model = compiled()
    tau = {"block_0": HUGE, "block_1": TINY}
    grades = GradES(tau, alpha=3, recompile="always", verbose=0)

    def look(model):
        asked = len(find_grades_optimizer(model)._trainable_variables)
        return (
            asked,
            [id(v) for v in model.trainable_variables],
            [id(v) for v in model.non_trainable_variables],
        )

    spy = Spy(look)
    everything = {id(v) for v in model.trainable_variables}
    fit(model, grades, spy)
    frozen = {
        id(v) for c in grades.components if c.frozen_at for v in c.variables
    }
    for asked, trainable, non_trainable in spy.seen[:3]:
        assert set(trainable) == everything
        assert asked == len(everything)
        assert not frozen & set(non_trainable)
    for asked, trainable, non_trainable in spy.seen[3:]:
        assert set(trainable) == everything - frozen
        assert asked == len(everything - frozen)
        assert frozen <= set(non_trainable)


@pytest.mark.everywhere
def test_frozen_weight_gradients_are_no_longer_computed(monkeypatch):
    """The train step, as it is traced, asks for the others only."""
    model = compiled()
    given = []
    inner_apply = model.optimizer.apply

    def apply(grads, variables=None):
        given.append({v.path for v in variables})
        return inner_apply(grads, variables)

    monkeypatch.setattr(model.optimizer, "apply", apply)
    tau = {"block_0": HUGE, "block_1": TINY}
    grades = GradES(tau, alpha=3, recompile="always", verbose=0)
    fit(model, grades)
    frozen = {
        v.path for c in grades.components if c.frozen_at for v in c.variables
    }
    assert frozen <= given[0]
    assert given[-1] == given[0] - frozen
    if keras.backend.backend() == "torch":
        for component in grades.components:
            for v in component.variables:
                assert (v.value.grad is None) == (v.path in frozen)
    if keras.backend.backend() == "jax":
        assert flops.of_a_step(model, frozen) < 0.95 * flops.of_a_step(model)


@pytest.mark.everywhere
@pytest.mark.parametrize("recompile", ["always", "never"])
def test_gives_the_model_back(recompile):
    model = compiled()
    optimizer, train_step = model.optimizer, model.train_step
    had = attributes(model)
    trainable = [id(v) for v in model.trainable_variables]
    grades = GradES(
        {"block_0": HUGE, "1": TINY}, alpha=2, recompile=recompile, verbose=0
    )
    fit(model, grades)
    assert model.optimizer is optimizer
    assert model.train_step == train_step
    assert attributes(model) == had
    assert [id(v) for v in model.trainable_variables] == trainable
    assert int(optimizer.iterations) == BATCHES
    # It trains on as it is, all of it.
    before = model.get_weights()
    fit(model)
    assert int(optimizer.iterations) == 2 * BATCHES
    for old, new in zip(before, model.get_weights()):
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("recompile", ["always", "never"])
def test_may_leave_what_it_froze_frozen(recompile):
    model = compiled()
    grades = GradES(
        {"block_0": HUGE, "1": TINY},
        alpha=2,
        recompile=recompile,
        restore_trainable=False,
        verbose=0,
    )
    fit(model, grades)
    frozen = {
        id(v) for c in grades.components if c.frozen_at for v in c.variables
    }
    assert frozen
    assert frozen == {id(v) for v in model.non_trainable_variables}
    model.compile("sgd", small.loss())
    fit(model)


def test_flags_that_stay_are_the_users_after_an_interruption():
    model = compiled()
    grades = GradES(
        {"block_0": HUGE, "1": TINY},
        alpha=2,
        recompile="never",
        restore_trainable=False,
        verbose=0,
    )

    def interrupt(batch, logs):
        if batch == 4:
            raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_train_batch_begin=interrupt)
    x, y = small.data(BATCHES)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, 4, verbose=0, callbacks=[grades, stop])
    grades.restore()
    assert grades.report.frozen
    assert not model.non_trainable_variables


def test_optimizer_goes_on_with_its_state():
    """Training in two halves, the first with GradES, is training in one."""
    whole, halves = compiled(), compiled()
    x, y = small.data(BATCHES)
    whole.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0}
    halves.fit(x, y, callbacks=[GradES(TINY, verbose=0)], **arguments)
    halves.fit(x, y, **arguments)
    for a, b in zip(whole.get_weights(), halves.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_same_callback_twice():
    model = compiled()
    grades = GradES(HUGE, alpha=4, verbose=0)
    for _ in range(2):
        fit(model, grades)
        assert grades.stopped_step == 4
        np.testing.assert_array_equal(grades.trace["step"], [1, 2, 3, 4])
    assert int(model.optimizer.iterations) == 8


def test_compiled_again_in_between():
    model, grades = compiled(), GradES(HUGE, alpha=4, verbose=0)
    fit(model, grades)
    sgd = keras.optimizers.SGD(0.01)
    model.compile(sgd, small.loss())
    fit(model, grades)
    assert model.optimizer is sgd
    assert int(sgd.iterations) == grades.stopped_step == 4


def test_train_on_batch():
    """A model that is compiled with the optimizer needs no callback."""
    model = small.transformer()
    components = keras_grades.find_components(model)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.05, momentum=0.9), components, HUGE, alpha=2
    )
    model.compile(optimizer, small.loss())
    x, y = small.data(4)
    values = []
    for batch in small.batches(x, y):
        model.train_on_batch(*batch)
        values.append(small.weights(model))
    assert float(optimizer.frozen_ratio) == 1.0
    tracked = {id(v) for c in components for v in c.variables}
    for variable, before, after in zip(model.weights, values[1], values[3]):
        is_frozen = np.array_equal(before, after)
        assert is_frozen == (id(variable) in tracked)


def test_goes_on_with_an_optimizer_that_is_there():
    """`GradES` takes over what a `GradESOptimizer` has begun."""
    model = small.transformer()
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.05),
        keras_grades.find_components(model),
        {"block_0": HUGE, "": TINY},
        alpha=2,
    )
    model.compile(optimizer, small.loss())
    x, y = small.data(3)
    for batch in small.batches(x, y):
        model.train_on_batch(*batch)
    grades = GradES({"block_0": TINY, "": HUGE}, alpha=5, verbose=0)
    fit(model, grades)
    frozen_at = [c.frozen_at for c in grades.components]
    assert frozen_at == [2] * 6 + [5] * 6
    assert model.optimizer is optimizer.inner_optimizer


def test_after_an_interruption():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 6:
                raise KeyboardInterrupt

    model = compiled()
    optimizer = model.optimizer
    grades = GradES({"block_0": HUGE, "1": TINY}, alpha=2, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, grades, Interrupt())
    grades.restore()
    assert model.optimizer is optimizer
    assert all(v.trainable for c in grades.components for v in c.variables)
    fit(model)

    with pytest.raises(KeyboardInterrupt):
        fit(model, grades, Interrupt())
    again = GradES(HUGE, alpha=3, verbose=0)
    fit(model, again)  # Without `restore()`: this one clears up.
    assert again.stopped_step == 3
    assert model.optimizer is optimizer


def test_what_the_user_freezes_after_an_interruption_stays_so():
    def interrupt(model):
        raise KeyboardInterrupt

    model = compiled()
    grades = GradES({"block_0": HUGE, "1": TINY}, alpha=2, recompile="always")
    with pytest.raises(KeyboardInterrupt):
        fit(model, grades, small.At(6, interrupt))
    assert any(not v.trainable for v in model.variables)
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile("sgd", small.loss())  # This takes GradES off.
    assert model.trainable_variables == model.get_layer("head").weights


def test_flags_may_be_set_and_set_back_within_a_callback():
    model = compiled()
    block = model.get_layer("block_0_attention")

    class Probe(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            block.trainable = False
            block.trainable = True

    grades = GradES(
        {"block_0": HUGE, "1": TINY}, alpha=4, recompile="always", verbose=0
    )
    fit(model, grades, Probe(), epochs=2)
    assert [c.frozen_at for c in grades.components] == [4] * 6 + [None] * 6
    assert all(v.trainable for v in block.weights)


def test_state_from_before_a_structural_freeze(tmp_path):
    """It would bring matrices back that the step is made without."""
    path = tmp_path / "early.weights.h5"
    grades = GradES(
        {"block_0": HUGE, "1": TINY}, alpha=4, recompile="always", verbose=0
    )
    with pytest.raises(ValueError, match="in the middle of `fit\\(\\)`"):
        fit(
            compiled(),
            small.At(2, lambda model: model.save_weights(path)),
            small.At(8, lambda model: model.load_weights(path)),
            grades,
            epochs=2,
        )


@pytest.mark.everywhere
def test_a_model_just_compiled_with_a_grades_optimizer():
    """On TensorFlow that is not built yet."""
    model = compiled()
    components = keras_grades.find_components(model)
    inner = keras.optimizers.SGD(0.01)
    model.compile(keras_grades.GradESOptimizer(inner, components), small.loss())
    grades = GradES(HUGE, alpha=2, verbose=0)
    fit(model, grades)
    assert grades.stopped_step == 2
    assert model.optimizer is inner


def test_the_optimizer_passes_on_what_it_is_told():
    model = small.transformer(blocks=1)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.AdamW(0.1, weight_decay=0.5),
        keras_grades.find_components(model),
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(model.trainable_variables)
    for variable in model.trainable_variables:
        decays = optimizer.inner_optimizer._use_weight_decay(variable)
        assert decays == ("bias" not in variable.name)
    weights = [
        np.full(v.shape, 3).astype(keras.backend.standardize_dtype(v.dtype))
        for v in optimizer.variables
    ]
    optimizer.set_weights(weights)
    for variable, value in zip(optimizer.variables, weights):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable), value
        )
    with pytest.raises(ValueError, match="zip"):
        optimizer.set_weights(weights[:-1])


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("block_1.*(up|down)", ["block_1_up", "block_1_down"]),
        (
            lambda c: c.role == "value",
            ["block_0_attention/value", "block_1_attention/value"],
        ),
    ],
)
def test_selection_by_name_or_function(selection, names):
    grades = GradES(HUGE, alpha=2, components=selection, verbose=0)
    fit(compiled(), grades)
    assert [c.name for c in grades.components] == names


def test_selection_by_layers_and_variables():
    model = compiled()
    up = model.get_layer("block_0_up")
    chosen = [up, model.get_layer("block_1_down").kernel]
    grades = GradES(HUGE, alpha=2, components=chosen, verbose=0)
    fit(model, grades)
    assert [c.name for c in grades.components] == ["block_0_up", "block_1_down"]
    assert grades.components[0].variables[0] is up.kernel


def test_untracked_components_train_on():
    model = compiled()
    tau = {"block_0_up": HUGE, "block_1_up": TINY}
    grades = GradES(tau, alpha=2, verbose=0)
    weights = []
    note = small.At(2, lambda model: weights.extend(small.weights(model)))
    fit(model, grades, note)
    assert [c.name for c in grades.components] == list(tau)
    assert [c.frozen_at for c in grades.components] == [2, None]
    for variable, before in zip(model.weights, weights):
        moved = not np.array_equal(keras.ops.convert_to_numpy(variable), before)
        assert moved == ("block_0_up" not in variable.path)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"max_frozen_ratio": 0.0}, ValueError, r"\(0, 1\]"),
        ({"max_frozen_ratio": 1.1}, ValueError, "max_frozen_ratio=1.1"),
        ({"max_frozen_ratio": "all"}, TypeError, "max_frozen_ratio='all'"),
        ({"recompile": "sometimes"}, ValueError, "recompile='sometimes'"),
        ({"recompile": 0}, ValueError, "recompile=0"),
        ({"recompile": True}, TypeError, "recompile=True"),
        # The others are those of `FreezePolicy`.
        ({"tau": -1.0}, ValueError, "tau=-1.0"),
    ],
)
def test_bad_arguments_fail_at_construction(arguments, error, says):
    with pytest.raises(error, match=says):
        GradES(**{"tau": 1.0, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"total_steps": 312.5}, TypeError, "total_steps=312.5"),
        ({"total_steps": -1}, ValueError, "total_steps=-1"),
        ({"steps_per_epoch": 3.0}, TypeError, "steps_per_epoch=3.0"),
        ({"tau": [1.0]}, ValueError, "1 entries for 6 components"),
    ],
)
def test_bad_arguments_of_the_optimizer(arguments, error, says):
    components = keras_grades.find_components(small.transformer(blocks=1))
    with pytest.raises(error, match=says):
        keras_grades.GradESOptimizer(
            keras.optimizers.SGD(), components, **{"alpha": 0, **arguments}
        )


def test_an_optimizer_by_itself_settles_by_its_plan():
    model = small.transformer(blocks=1)
    variables = model.trainable_variables
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.01),
        keras_grades.find_components(model),
        total_steps=10,
    )
    optimizer.build(variables)
    ones = [keras.ops.ones(v.shape) for v in variables]
    for step in range(1, 12):
        if step == 11:
            weights = small.weights(model)
        reference.apply(optimizer, ones, variables)
        frozen_at = keras.ops.convert_to_numpy(optimizer.frozen_at)
        # The rate falls from step 8 on.
        assert frozen_at.tolist() == [10 if step >= 10 else 0] * 6
    for a, b in zip(small.weights(model), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_default_stops_when_a_share_is_frozen():
    """The lower block is at rest halfway through the fall of the rate."""
    model = compiled()
    x, y = small.data(20)
    grades = GradES(max_frozen_ratio=0.5, verbose=0)
    model.fit(x, y, 4, epochs=3, verbose=0, callbacks=[grades])
    assert grades.stopped_step == 54
    frozen = {c.block: c.frozen_at for c in grades.components}
    assert list(frozen.values()) == [54, None]


@pytest.mark.parametrize("what", ["use_ema", "constraints", "float8"])
def test_a_cooldown_is_refused_where_it_would_be_wrong(what):
    variable = keras.Variable(np.ones((2, 2), "float32"))
    if what == "constraints":
        variable.constraint = keras.constraints.NonNeg()
    if what == "float8":
        variable.overwrite_with_gradient = True
    component = keras_grades.Component("c", "query", "block", (variable,))
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.1, use_ema=what == "use_ema"),
        [component],
        1.0,
        alpha=0,
        cooldown=2,
    )
    with pytest.raises(ValueError, match="takes back"):
        optimizer.build([variable])


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"components": "no_such_layer"}, ValueError, "No component is left"),
        ({"components": 3}, TypeError, "components=3|include=3"),
        ({"components": []}, ValueError, "must not be empty"),
        ({"components": ["query"]}, TypeError, "layers or variables"),
        ({"tau": {"no_such_layer": 1.0}}, ValueError, "'no_such_layer'"),
    ],
)
def test_bad_selections_fail_at_the_start(arguments, error, says):
    model = compiled()
    optimizer, had = model.optimizer, attributes(model)
    with pytest.raises(error, match=says):
        fit(model, GradES(**{"tau": 1.0, "verbose": 0, **arguments}))
    assert model.optimizer is optimizer
    assert attributes(model) == had
    assert int(optimizer.iterations) == 0


def test_a_layer_that_is_no_component():
    model = compiled()
    selection = [model.get_layer("head")]
    with pytest.raises(ValueError, match="head"):
        fit(model, GradES(1.0, components=selection, verbose=0))


def test_a_share_of_an_unknown_length():
    def endless():
        x, y = small.data(BATCHES)
        while True:
            yield x[:4], y[:4]

    model = compiled()
    with pytest.raises(ValueError, match="Pass an integer"):
        model.fit(endless(), callbacks=[GradES(1.0, verbose=0)], verbose=0)
    grades = GradES(HUGE, alpha=5, verbose=0)
    model.fit(endless(), callbacks=[grades], verbose=0)
    # It looks once in four steps, and sees what was so at the last look.
    assert grades.stopped_step == 8 + 4


def test_a_model_without_a_transformer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", small.loss())
    with pytest.raises(ValueError, match="1 Dense"):
        model.fit(
            np.zeros((4, 4)),
            np.zeros(4),
            callbacks=[GradES(1.0, verbose=0)],
            verbose=0,
        )


def test_a_model_that_is_not_compiled():
    grades = GradES(1.0)
    grades.set_model(small.transformer())
    grades.set_params({"epochs": 1, "steps": 3})
    with pytest.raises(ValueError, match="not compiled"):
        grades.on_train_begin()


def test_nothing_to_report_before_training():
    with pytest.raises(ValueError, match="first"):
        _ = GradES(1.0).report


def test_an_optimizer_of_other_variables():
    model = compiled()
    model.get_layer("block_0_up").trainable = False
    fit(model)
    model.get_layer("block_0_up").trainable = True
    with pytest.raises(ValueError, match="compile.*block_0_up"):
        fit(model, GradES(1.0, verbose=0))


def test_report_and_trace():
    grades = GradES(HUGE, alpha=4, verbose=0)
    fit(compiled(), grades)
    assert grades.trace["statistic"].shape == (4, 12)
    assert np.isfinite(grades.trace["statistic"]).all()
    report = grades.report.to_dict()
    assert report["stopped_step"] == 4
    assert report["settings"]["backend"] == keras.backend.backend()


def test_trace_is_whole_over_long_runs():
    grades = GradES(TINY, verbose=0)
    x, y = small.data(45)
    compiled().fit(x, y, 4, epochs=3, callbacks=[grades], verbose=0)
    np.testing.assert_array_equal(grades.trace["step"], np.arange(1, 136))
    assert np.isfinite(grades.trace["statistic"]).all()


def test_trace_is_thinned_out_where_it_would_grow_too_long(monkeypatch):
    def run():
        keras.utils.set_random_seed(0)
        grades = GradES(TINY, verbose=0)
        x, y = small.data(45)
        compiled().fit(x, y, 4, epochs=3, callbacks=[grades], verbose=0)
        return grades

    whole = run().trace
    monkeypatch.setattr(trace, "MOST_KEPT", 50)
    thinned = run().trace
    # 135 steps: more than 2 * 50, fewer than 4 * 50.
    np.testing.assert_array_equal(thinned["step"], np.arange(4, 136, 4))
    np.testing.assert_array_equal(
        thinned["statistic"], whole["statistic"][3::4]
    )


def test_says_what_it_does(capsys):
    fit(compiled(), GradES(HUGE, alpha=4, verbose=1), epochs=2)
    said = capsys.readouterr().out
    assert "12 components in 2 blocks" in said
    assert "nothing freezes before step 4 of 20" in said
    assert "stopped at step 4 of 20, 12 of 12 components frozen" in said
    fit(compiled(), GradES(HUGE, alpha=4, verbose=0))
    assert capsys.readouterr().out == ""


class WithTrainStep(keras.Model):
    """A model with a `train_step` of its own."""

    if keras.backend.backend() == "jax":

        def train_step(self, state, data):
            logs, state = super().train_step(state, data)
            return {"mine": logs["loss"]}, state

    else:

        def train_step(self, data):
            return {"mine": super().train_step(data)["loss"]}


def test_keeps_a_train_step_of_the_model():
    plain = small.transformer()
    model = WithTrainStep(plain.inputs, plain.outputs)
    model.compile("adam", small.loss())
    grades = GradES(HUGE, alpha=4, verbose=0)
    history = fit(model, grades)
    assert set(history.history) == {"mine", "frozen_ratio", "statistic"}
    assert grades.stopped_step == 4
    assert "frozen_ratio" not in fit(model).history


class Mixed(keras_grades.GradESMixin, keras.Model):
    pass


@pytest.mark.everywhere
def test_mixin_without_the_callback():
    plain = small.transformer()
    model = Mixed(plain.inputs, plain.outputs)
    components = keras_grades.find_components(model)
    model.compile(
        keras_grades.GradESOptimizer(
            keras.optimizers.Adam(0.01), components, tau=HUGE, alpha=4
        ),
        small.loss(),
    )
    history = fit(model)
    assert history.history["frozen_ratio"] == [1.0]
    model.compile("adam", small.loss())
    assert "frozen_ratio" not in fit(model).history
    grades = GradES(HUGE, alpha=4, verbose=0)
    assert fit(model, grades).history["frozen_ratio"] == [1.0]


def test_loss_scaling_stays_outermost():
    inner = keras.optimizers.SGD(0.05)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    model = compiled(scaled)
    plain = compiled(keras.optimizers.SGD(0.05))
    grades = [GradES(TINY, verbose=0) for _ in range(2)]
    fit(model, grades[0], shuffle=False)
    fit(plain, grades[1], shuffle=False)
    assert model.optimizer is scaled
    assert scaled.inner_optimizer is inner
    np.testing.assert_allclose(
        grades[0].trace["statistic"], grades[1].trace["statistic"], rtol=1e-3
    )


def test_statistic_is_of_the_accumulated_gradient():
    """Four micro-batches of 2 are one batch of 8."""
    whole = compiled(keras.optimizers.SGD(0.05))
    parts = compiled(keras.optimizers.SGD(0.05, gradient_accumulation_steps=4))
    x, y = small.data(6, batch_size=8)
    grades = [GradES(TINY, verbose=0) for _ in range(2)]
    whole.fit(x, y, 8, shuffle=False, callbacks=[grades[0]], verbose=0)
    parts.fit(x, y, 2, shuffle=False, callbacks=[grades[1]], verbose=0)
    assert grades[1].total_steps == 6
    np.testing.assert_array_equal(grades[1].trace["step"], np.arange(1, 7))
    np.testing.assert_allclose(
        grades[0].trace["statistic"], grades[1].trace["statistic"], rtol=1e-3
    )


@pytest.mark.everywhere
def test_custom_loop_with_the_optimizer():
    """The loop of the docstring, on each backend."""
    model = small.transformer()
    components = keras_grades.find_components(model)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.AdamW(0.01), components, tau=HUGE, alpha=3
    )
    optimizer.build(model.trainable_variables)
    x, y = small.data(BATCHES)
    step = _jax_step if keras.backend.backend() == "jax" else _step
    take = step(model, optimizer)
    weights = []
    for i in range(0, len(x), 4):
        take(x[i : i + 4], y[i : i + 4])
        weights.append([np.copy(w) for w in model.get_weights()])
        if float(optimizer.frozen_ratio) == 1.0 and i > 20:
            break
    frozen = keras.ops.convert_to_numpy(optimizer.frozen_at)
    np.testing.assert_array_equal(frozen, 3)
    tracked = {id(v) for c in components for v in c.variables}
    for i, variable in enumerate(model.weights):
        moved = not np.array_equal(weights[2][i], weights[-1][i])
        assert moved == (id(variable) not in tracked)


def _step(model, optimizer):
    def take(x, y):
        variables = model.trainable_variables
        grads = reference.gradients(model, variables, x, y, small.loss())
        reference.apply(optimizer, grads, variables)

    return take


def _jax_step(model, optimizer):
    import jax

    def loss(variables, x, y):
        y_pred, _ = model.stateless_call(variables, [], x)
        return small.loss()(y, y_pred)

    @jax.jit
    def compiled(variables, optimizer_variables, x, y):
        grads = jax.grad(loss)(variables, x, y)
        return optimizer.stateless_apply(optimizer_variables, grads, variables)

    def take(x, y):
        variables = model.trainable_variables
        new = compiled(
            [v.value for v in variables],
            [v.value for v in optimizer.variables],
            x,
            y,
        )
        for variable, value in zip(variables, new[0]):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, new[1]):
            variable.assign(value)

    return take


def test_optimizer_is_a_keras_optimizer():
    model = small.transformer()
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
        keras_grades.find_components(model),
        tau={"block_0": 2.0, "block_1": 3.0},
        alpha=0.25,
        total_steps=40,
        monitor="weight_change",
        norm="l2",
        patience=2,
        cooldown=0.5,
    )
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    optimizer.learning_rate = 0.02
    assert float(optimizer.inner_optimizer.learning_rate) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="build"):
        optimizer.get_config()
    optimizer.build(model.trainable_variables)
    assert int(optimizer.iterations) == 0
    names = [v.name for v in optimizer.variables]
    assert {"statistic", "below", "frozen_at"} <= set(names)

    config = keras.optimizers.serialize(optimizer)
    copy = keras.optimizers.deserialize(config)
    copy.build(model.trainable_variables)
    assert copy.get_config() == optimizer.get_config()
    assert copy.policy.cooldown == 0.5
    assert [c.name for c in copy.components] == [
        c.name for c in optimizer.components
    ]
    for a, b in zip(copy.components, optimizer.components):
        assert all(v is w for v, w in zip(a.variables, b.variables))


class Centralized(keras.optimizers.SGD):
    """It would be passed over, and on JAX and PyTorch is without GradES."""

    def apply_gradients(self, grads_and_vars):
        centred = [(g - keras.ops.mean(g), v) for g, v in grads_and_vars]
        return super().apply_gradients(centred)


@pytest.mark.parametrize(
    ("inner", "error", "says"),
    [
        (lambda c: "adam", TypeError, "keras.optimizers.Optimizer"),
        (
            lambda c: keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD()
            ),
            ValueError,
            r"LossScaleOptimizer\(GradESOptimizer",
        ),
        (
            lambda c: keras_grades.GradESOptimizer(
                keras.optimizers.SGD(), c, 1.0, alpha=0
            ),
            ValueError,
            "cannot wrap another",
        ),
        (
            lambda c: keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(
                    keras.optimizers.SGD(gradient_accumulation_steps=2)
                )
            ),
            ValueError,
            "must not accumulate",
        ),
        (lambda c: Centralized(0.1), ValueError, "overrides `apply_gradients`"),
    ],
)
def test_what_the_optimizer_cannot_wrap(inner, error, says):
    components = keras_grades.find_components(small.transformer())
    with pytest.raises(error, match=says):
        keras_grades.GradESOptimizer(inner(components), components, 1.0)


def test_optimizer_must_know_its_components():
    model, other = small.transformer(), small.transformer()
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(),
        keras_grades.find_components(model),
        tau=1.0,
        alpha=0,
    )
    with pytest.raises(ValueError, match="block_0_attention/query"):
        optimizer.build(other.trainable_variables)


def test_validation_is_no_time_of_a_step():
    """By a clock of its own: a step takes one second, validation 1000."""
    now = [0.0]

    class Passing(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            now[0] += 1

        def on_test_end(self, logs=None):
            now[0] += 1000

    # In the grace period the host looks at the end of an epoch only.
    grades = GradES(TINY, alpha=100, verbose=0)
    grades.clock = lambda: now[0]
    model = compiled()
    x, y = small.data(3)
    model.fit(
        x,
        y,
        len(x),
        epochs=4,
        verbose=0,
        validation_data=(x, y),
        callbacks=[grades, Passing()],
    )
    [compilation] = grades.report.timing["compilations"]
    assert compilation["step_seconds_after"] == pytest.approx(1.0)
