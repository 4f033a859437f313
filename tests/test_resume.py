"""Interrupted, saved, loaded, and gone on with: as if nothing had been."""

import functools
import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import small
from markers import long_on

import keras_grades
from keras_grades import GradES

pytestmark = pytest.mark.alike

EPOCHS, BATCHES, INTERRUPTED = 6, 5, 3
# Some freeze before the interruption, some after it, some never.
TAU = {"query|up|value": 1e30, "": 1e-30}
ALPHA = 7


def compiled(seed=0, **arguments):
    model = small.transformer(blocks=1, seed=seed)
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    model.compile(optimizer, small.loss(), **arguments)
    return model


def grades(**arguments):
    defaults = {"monitor": "gradient_change", "recompile": "always"}
    return GradES(**{**defaults, "verbose": 0, **arguments})


def fit(model, *callbacks, **arguments):
    x, y = small.data(BATCHES)
    arguments = {"epochs": EPOCHS, **arguments}
    return model.fit(
        x,
        y,
        batch_size=4,
        shuffle=False,
        callbacks=list(callbacks),
        verbose=0,
        **arguments,
    )


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == INTERRUPTED:
            raise KeyboardInterrupt


SETTINGS = {
    "at_once": {"tau": TAU, "alpha": ALPHA},
    "after_the_interruption": {"tau": TAU, "alpha": 0.6},
    "while_it_counts": {"tau": 1e30, "alpha": 3, "patience": 16},
    "logically": {"tau": TAU, "alpha": ALPHA, "recompile": "never"},
    # From step 7 on; it is interrupted after step 15.
    "cooling_down": {"tau": TAU, "alpha": ALPHA, "cooldown": 12},
    # Four freeze before the interruption, two after it.
    "relative_change": {
        "tau": 0.9335,
        "alpha": 3,
        "monitor": "relative_change",
        "recompile": 2,
    },
    "weight_change": {"tau": TAU, "alpha": ALPHA, "monitor": "weight_change"},
}


def each_setting(sample):
    """All of them; `make test` takes one."""
    return pytest.mark.parametrize(
        "settings",
        [
            pytest.param(name, marks=() if name == sample else pytest.mark.long)
            for name in SETTINGS
        ],
    )


@functools.cache
def uninterrupted(settings):
    model, callback = compiled(), grades(**SETTINGS[settings])
    fit(model, callback)
    return callback, model, small.weights(model)


def interrupted(settings, *callbacks):
    model, callback = compiled(), grades(**SETTINGS[settings])
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, *callbacks, Interrupt())
    return model


def check_same(callback, model, settings):
    expected, expected_model, expected_weights = uninterrupted(settings)
    frozen_at = [c.frozen_at for c in callback.components]
    assert frozen_at == [c.frozen_at for c in expected.components]
    assert any(frozen_at)
    assert callback.stopped_step == expected.stopped_step
    assert callback.total_steps == expected.total_steps
    check_measured_on(callback, expected, atol=1e-6)
    for a, b in zip(model.get_weights(), expected_weights):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert int(model.optimizer.iterations) == int(
        expected_model.optimizer.iterations
    )
    assert isinstance(model.optimizer, keras.optimizers.AdamW)


def check_measured_on(callback, expected, atol=0):
    """From where it was interrupted, what the whole run has measured."""
    steps = callback.trace["step"]
    assert steps[0] == INTERRUPTED * BATCHES + 1
    np.testing.assert_allclose(
        callback.trace["statistic"],
        expected.trace["statistic"][-len(steps) :],
        rtol=1e-3,
        atol=atol,
    )


@pytest.mark.everywhere
@each_setting(sample="at_once")
def test_backup_and_restore(settings, tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    interrupted(settings, backup())
    model, callback = compiled(seed=1), grades(**SETTINGS[settings])
    fit(model, callback, backup())
    check_same(callback, model, settings)


@long_on("tensorflow")
@pytest.mark.parametrize("same_model", [True, False])
def test_backup_and_restore_before_grades(same_model, tmp_path):
    """It loads before GradES is there, which finds what it is to take."""
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    settings = "at_once"
    model = interrupted(settings, backup)
    if not same_model:
        model = compiled(seed=1)
    callback = grades(**SETTINGS[settings])
    fit(model, backup, callback)
    check_same(callback, model, settings)
    assert "freeze_state" not in vars(model.optimizer)


@long_on("tensorflow")
def test_backup_and_restore_before_grades_in_the_first_epoch(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "b", save_freq=2)

    class Early(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), grades(**SETTINGS["at_once"]), backup(), Early())
    callback = grades(**SETTINGS["at_once"])
    fit(compiled(), backup(), callback)
    assert callback.trace["step"][0] == 3


def test_weights_loaded_before_grades(tmp_path):
    path = tmp_path / "{epoch}.weights.h5"
    interrupted(
        "at_once",
        keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
    )
    model = compiled(seed=1)
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(
            tmp_path / f"{INTERRUPTED}.weights.h5"
        )
    )
    callback = grades(**SETTINGS["at_once"])
    fit(model, load, callback, initial_epoch=INTERRUPTED)
    check_same(callback, model, "at_once")
    assert model.optimizer is optimizer


@long_on("tensorflow")
@pytest.mark.parametrize("same_model", [True, False])
def test_backup_of_a_plain_training_before_grades(same_model, tmp_path):
    """All of it is restored, and GradES begins where it ends."""
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    model = compiled()
    with pytest.raises(KeyboardInterrupt):
        fit(model, backup, Interrupt())
    if not same_model:
        model = compiled(seed=1)
    callback = grades(tau=1e30, alpha=0.6)
    fit(model, backup, callback)
    assert callback.total_steps == (EPOCHS - INTERRUPTED) * BATCHES
    assert callback.stopped_step == 9
    assert int(model.optimizer.iterations) == INTERRUPTED * BATCHES + 9


@long_on("tensorflow")
def test_an_epoch_that_was_restored_long_ago(tmp_path):
    """Keras begins there again, and nothing has been loaded."""
    path = tmp_path / "backup"
    settings = "at_once"
    interrupted(settings, keras.callbacks.BackupAndRestore(path))
    model = compiled(seed=1)
    fit(
        model,
        grades(**SETTINGS[settings]),
        keras.callbacks.BackupAndRestore(path),
    )
    model.compile(keras.optimizers.SGD(0.01), small.loss())
    callback = grades(tau=1e30, alpha=2)
    fit(model, callback)
    assert callback.stopped_step == 2


@pytest.mark.parametrize(
    "way", [pytest.param("backup", marks=pytest.mark.everywhere), "model"]
)
def test_checkpoint_of_the_very_stop(way, tmp_path):
    """Not one step is taken: nothing moves any more."""
    arguments = {"tau": 1e30, "alpha": INTERRUPTED * BATCHES}
    # On TensorFlow no metric is built before the first step.
    model, callback = compiled(metrics=["accuracy"]), grades(**arguments)
    checkpoint = {
        "backup": lambda: keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        ),
        "model": lambda: keras.callbacks.ModelCheckpoint(
            tmp_path / "stopped.keras"
        ),
    }[way]
    fit(model, callback, checkpoint())
    assert callback.stopped_step == INTERRUPTED * BATCHES
    if way == "backup":
        again = compiled(seed=1, metrics=["accuracy"])
    else:
        again = keras.saving.load_model(tmp_path / "stopped.keras")
    resumed = grades(**arguments)
    history = fit(again, resumed, checkpoint(), initial_epoch=INTERRUPTED)
    assert resumed.stopped_step == callback.stopped_step
    assert history.epoch == [INTERRUPTED]
    assert history.history["frozen_ratio"] == [1.0]
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(history.history[name], [np.nan])
    for a, b in zip(again.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert int(again.optimizer.iterations) == INTERRUPTED * BATCHES
    # It trains on without GradES.
    fit(again, initial_epoch=INTERRUPTED, epochs=INTERRUPTED + 1)
    assert int(again.optimizer.iterations) == (INTERRUPTED + 1) * BATCHES


@pytest.mark.everywhere
@each_setting(sample="after_the_interruption")
def test_model_saved_during_training(settings, tmp_path):
    path = tmp_path / "{epoch}.keras"
    interrupted(settings, keras.callbacks.ModelCheckpoint(path))
    model = keras.saving.load_model(tmp_path / f"{INTERRUPTED}.keras")
    callback = grades(**SETTINGS[settings])
    fit(model, callback, initial_epoch=INTERRUPTED)
    check_same(callback, model, settings)


@each_setting(sample="while_it_counts")
def test_weights_saved_during_training(settings, tmp_path):
    path = tmp_path / "{epoch}.weights.h5"
    interrupted(
        settings, keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    )
    model, callback = compiled(seed=1), grades(**SETTINGS[settings])
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(
            tmp_path / f"{INTERRUPTED}.weights.h5"
        )
    )
    fit(model, callback, load, initial_epoch=INTERRUPTED)
    check_same(callback, model, settings)


@long_on("tensorflow")
@pytest.mark.long
def test_accumulated_gradients_are_resumed(tmp_path):
    """Five micro-batches an epoch, two an update: one is left over."""

    def run(model, *callbacks, **arguments):
        callback = grades(tau=TAU, alpha=4, monitor="gradient")
        fit(model, callback, *callbacks, **arguments)
        return [c.frozen_at for c in callback.components]

    def accumulating(seed):
        model = small.transformer(blocks=1, seed=seed)
        adam = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
        model.compile(adam, small.loss())
        return model

    whole = accumulating(seed=0)
    expected = run(whole)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        run(accumulating(seed=0), backup, Interrupt())
    model = accumulating(seed=1)
    assert run(model, backup) == expected
    for a, b in zip(model.get_weights(), whole.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)


@long_on("tensorflow")
@pytest.mark.parametrize("way", ["model", "weights"])
def test_loss_scaling_is_saved_with_it(way, tmp_path):
    """Also when the copies of the gradients of what froze are gone."""

    def scaling(seed=0):
        model = small.transformer(blocks=1, seed=seed)
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(0.01),
            initial_scale=64.0,
            dynamic_growth_steps=3,
        )
        model.compile(optimizer, small.loss())
        return model

    model = scaling()
    scaled = model.optimizer
    fit(
        model,
        grades(tau=TAU, alpha=4),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "{epoch}.weights.h5", save_weights_only=True
        ),
        epochs=2,
    )
    assert not isinstance(scaled.inner_optimizer, keras_grades.GradESOptimizer)
    assert "save_own_variables" not in vars(scaled)
    callbacks = []
    if way == "model":
        loaded = keras.saving.load_model(tmp_path / "1.keras")
        inner = loaded.optimizer.inner_optimizer
    else:
        loaded = scaling(seed=1)
        inner = loaded.optimizer.inner_optimizer
        callbacks = [
            keras.callbacks.LambdaCallback(
                on_train_begin=lambda logs: loaded.load_weights(
                    tmp_path / "1.weights.h5"
                )
            )
        ]
    callback = grades(tau=TAU, alpha=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Something skipped.
        fit(loaded, callback, *callbacks, epochs=2, initial_epoch=1)
    assert loaded.optimizer.inner_optimizer is inner
    # 10 steps, the scale doubled after each 3 of them.
    assert float(scaled.dynamic_scale) == 64.0 * 2**3
    assert float(loaded.optimizer.dynamic_scale) == 64.0 * 2**3
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)


def decayed(seed=0):
    """Compiled with a rate that falls once, before the interruption."""
    model = small.transformer(blocks=1, seed=seed)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        [INTERRUPTED * BATCHES - 2], [0.01, 0.0001]
    )
    model.compile(keras.optimizers.AdamW(rate), small.loss())
    return model


def test_the_monitor_is_that_with_which_a_run_began(tmp_path):
    """From where it goes on the learning rate is constant."""
    path = tmp_path / "{epoch}.keras"
    save = keras.callbacks.ModelCheckpoint(path)
    with pytest.raises(KeyboardInterrupt):
        fit(decayed(), GradES(), save, Interrupt())
    model = keras.saving.load_model(tmp_path / f"{INTERRUPTED}.keras")
    callback = GradES()
    fit(model, callback, initial_epoch=INTERRUPTED)
    assert callback.report.settings["monitor"] == "relative_change"
    whole, uninterrupted = decayed(), GradES()
    fit(whole, uninterrupted)
    check_measured_on(callback, uninterrupted)


def test_the_state_of_another_monitor_is_refused(tmp_path):
    """It loads after GradES, which knows no better than to look ahead."""
    path = tmp_path / "backup"
    model = decayed()
    with pytest.raises(KeyboardInterrupt):
        backup = keras.callbacks.BackupAndRestore(path)
        fit(model, GradES(), backup, Interrupt())
    with pytest.raises(ValueError, match="another monitor.*'transfer'"):
        fit(model, GradES(), keras.callbacks.BackupAndRestore(path))
    callback = GradES(monitor="relative_change")
    fit(model, callback, keras.callbacks.BackupAndRestore(path))
    assert callback.trace["step"][0] == INTERRUPTED * BATCHES + 1


@pytest.mark.parametrize("monitor", ["gradient", "weight_change"])
def test_the_state_of_a_monitor_without_any_is_told_apart(monitor, tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    interrupted("while_it_counts", backup)
    other = grades(tau=1e30, alpha=3, monitor=monitor)
    with pytest.raises(ValueError, match=f"another monitor.*'{monitor}'"):
        fit(compiled(), other, backup)


class InterruptAt(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 22:
            raise KeyboardInterrupt


def test_the_windows_of_a_run_stay_as_they_were(tmp_path):
    """Keras takes up an epoch from its beginning, so the plan is longer."""

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path, save_freq=7)

    x, y = small.data(40)
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    whole = GradES()
    with pytest.raises(KeyboardInterrupt):
        compiled().fit(
            x, y, callbacks=[whole, backup(), InterruptAt()], **options
        )
    resumed = GradES()
    compiled(seed=1).fit(x, y, callbacks=[resumed, backup()], **options)
    assert resumed.total_steps == 21 + 80
    monitors = [g._run.optimizer.rule.monitor for g in (whole, resumed)]
    assert monitors[0].part == monitors[1].part == 3
    assert monitors[0].horizon == monitors[1].horizon == 40


def test_a_first_epoch_without_a_checkpoint():
    """Then the run is what remains: the grace period is a share of that."""
    callback = grades(tau=1e30, alpha=0.5)
    fit(compiled(), callback, initial_epoch=2)
    assert callback.total_steps == 4 * BATCHES
    assert callback._run.rebuilder.total_steps == 4 * BATCHES
    assert callback.stopped_step == 2 * BATCHES


LOAD = """
import json, sys
if {without}:
    sys.modules["keras_grades"] = None  # Importing it fails.
else:
    import keras_grades
import keras
loaded = []
for path in sys.argv[1:]:
    optimizer = keras.saving.load_model(path).optimizer
    loaded.append([type(optimizer).__name__, int(optimizer.iterations)])
print(json.dumps(loaded))
"""


def load_in_new_process(*paths, without):
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(without=without), *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@long_on("tensorflow")
def test_files_in_a_new_process(tmp_path):
    model = compiled()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "during.keras")
    fit(model, grades(tau=TAU, alpha=3), checkpoint, epochs=1)
    model.save(tmp_path / "after.keras")
    paths = tmp_path / "during.keras", tmp_path / "after.keras"
    for without in (True, False):
        loaded = load_in_new_process(*paths, without=without)
        assert loaded == [["AdamW", BATCHES]] * 2


def test_another_selection_is_refused(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    interrupted("while_it_counts", backup)
    callback = grades(tau=1e30, alpha=3, components="attention")
    with pytest.raises(
        ValueError, match="of 6 components, and GradES tracks 4"
    ):
        fit(compiled(), callback, backup)


def test_another_order_is_refused():
    model = small.transformer()
    components = keras_grades.find_components(model)

    def built(components):
        optimizer = keras_grades.GradESOptimizer(
            keras.optimizers.SGD(0.1), components, tau=1.0, alpha=0
        )
        optimizer.build(model.trainable_variables)
        return optimizer

    state = {}
    built(components).save_freeze_state(state)
    built(components).load_freeze_state(state)
    with pytest.raises(ValueError, match="in another order"):
        built(components[::-1]).load_freeze_state(state)


def test_a_file_without_freeze_state_is_refused(tmp_path):
    plain = compiled()
    fit(plain, epochs=1)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = compiled()
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(
            tmp_path / "plain.weights.h5"
        )
    )
    with pytest.raises(ValueError, match="saved without GradES"):
        fit(model, grades(tau=TAU, alpha=3), load)
    # Before GradES is there it can be loaded.
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "plain.weights.h5")
    fit(model, grades(tau=TAU, alpha=3))
    assert int(model.optimizer.iterations) == (1 + EPOCHS) * BATCHES


@pytest.mark.parametrize(
    ("path", "scaled"),
    [
        ("{epoch}.keras", False),
        ("{epoch}.keras", True),
        ("{epoch}.weights.h5", False),
        ("{epoch}.weights.h5", True),
        ("{epoch}.h5", False),
    ],
)
def test_a_file_of_mid_fit_is_one_of_the_plain_optimizer(
    path, scaled, tmp_path
):
    """All of its state is loaded, and all that is trainable trains."""

    def adam(seed=0):
        model = small.transformer(blocks=1, seed=seed)
        optimizer = keras.optimizers.AdamW(0.01)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, small.loss())
        return model

    class Values(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            optimizer = self.model.optimizer
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            while hasattr(inner, "frozen_at"):
                inner = inner.inner_optimizer
            self.values = [v.numpy() for v in inner.variables]

    values = Values()
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / path, save_weights_only="weights" in path
    )
    # One block of two is frozen, and training goes on.
    tau = {"attention": 1e30, "block_0_(up|down)": 1e-30}
    callback = grades(tau=tau, alpha=3, recompile="always")
    fit(adam(), callback, values, checkpoint, epochs=1)
    assert [c.frozen_at for c in callback.components] == [3] * 4 + [None] * 2
    path = str(tmp_path / path).format(epoch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Something skipped.
        if "weights" not in path:
            loaded = keras.saving.load_model(path)
        else:
            loaded = adam(seed=1)
            loaded.optimizer.build(loaded.trainable_variables)
            loaded.load_weights(path)
    optimizer = loaded.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    assert type(inner) is type(keras.optimizers.AdamW())
    # Of HDF5 files Keras reads no more than iterations and learning rate.
    read = 2 if path.endswith("1.h5") else len(values.values)
    assert len(inner.variables) == read
    for variable, value in zip(inner.variables, values.values):
        np.testing.assert_array_equal(variable.numpy(), value)
    if read == 2:
        return  # It cannot train on: the optimizer was built for nothing.
    before = small.weights(loaded)
    fit(loaded, epochs=1)
    assert int(inner.iterations) == int(values.values[0]) + BATCHES
    for a, b in zip(small.weights(loaded), before):
        assert (a != b).any()


def test_what_was_noted_is_forgotten_once_training_went_on(tmp_path):
    interrupted(
        "at_once", keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    )
    model = keras.saving.load_model(tmp_path / f"{INTERRUPTED}.keras")
    fit(model, epochs=1)
    callback = grades(**SETTINGS["at_once"])
    fit(model, callback, epochs=1)
    assert callback.trace["step"][0] == 1


@long_on("tensorflow")
def test_saved_again_after_a_resume(tmp_path):
    """With its own optimizer, as after any training."""
    path = tmp_path / "{epoch}.keras"
    interrupted("at_once", keras.callbacks.ModelCheckpoint(path))
    model = keras.saving.load_model(tmp_path / f"{INTERRUPTED}.keras")
    fit(model, grades(**SETTINGS["at_once"]), initial_epoch=INTERRUPTED)
    model.save(tmp_path / "after.keras")
    again = keras.saving.load_model(tmp_path / "after.keras")
    assert isinstance(again.optimizer, keras.optimizers.AdamW)
    assert int(again.optimizer.iterations) == EPOCHS * BATCHES
    fit(again, epochs=1)


def test_nothing_is_left_to_train():
    model = compiled()
    optimizer = model.optimizer
    callback = grades(**SETTINGS["at_once"])
    fit(model, callback, initial_epoch=EPOCHS)
    assert model.optimizer is optimizer
    assert len(callback.trace["step"]) == 0


def test_checkpoint_of_the_last_epoch(tmp_path):
    """There is nothing left to train, but what was frozen is known."""
    arguments = SETTINGS["at_once"]
    model, callback = compiled(), grades(**arguments)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "last.keras")
    fit(model, callback, checkpoint)
    resumed = grades(**arguments)
    fit(
        keras.saving.load_model(tmp_path / "last.keras"),
        resumed,
        initial_epoch=EPOCHS,
    )
    frozen_at = [c.frozen_at for c in resumed.components]
    assert any(frozen_at)
    assert frozen_at == [c.frozen_at for c in callback.components]
    assert resumed.report.steps == EPOCHS * BATCHES


def test_a_file_that_goes_on_without_its_epoch_plans_all_that_remains(
    tmp_path,
):
    """The steps of the file and those of this `fit()` are one plan."""
    path = tmp_path / "{epoch}.keras"
    interrupted("at_once", keras.callbacks.ModelCheckpoint(path))
    model = keras.saving.load_model(tmp_path / f"{INTERRUPTED}.keras")
    callback = grades(**SETTINGS["at_once"])
    fit(model, callback)
    assert callback.total_steps == (INTERRUPTED + EPOCHS) * BATCHES


def test_an_error_does_not_lose_what_was_loaded(tmp_path):
    path = tmp_path / "{epoch}.keras"
    interrupted("at_once", keras.callbacks.ModelCheckpoint(path))
    model = keras.saving.load_model(tmp_path / f"{INTERRUPTED}.keras")
    other = grades(tau=1e30, alpha=3, components="attention")
    with pytest.raises(ValueError, match="does not fit"):
        fit(model, other, initial_epoch=INTERRUPTED)
    callback = grades(**SETTINGS["at_once"])
    fit(model, callback, initial_epoch=INTERRUPTED)
    check_same(callback, model, "at_once")


@pytest.mark.everywhere
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="It is TensorFlow's."
)
@pytest.mark.parametrize("recompile", ["always", "never"])
@pytest.mark.parametrize("monitor", ["gradient", "gradient_change"])
def test_a_checkpoint_of_tensorflow(recompile, monitor, tmp_path):
    """It has the layout of the model's own optimizer, and ours beside."""
    import tensorflow as tf

    def new():
        model = small.transformer(blocks=1)
        optimizer = keras.optimizers.Adam(0.01, use_ema=True)
        model.compile(optimizer, small.loss())
        return model

    def fit(model, grades, do, **arguments):
        x, y = small.data(6)
        arguments = {"epochs": 2, "shuffle": False, "verbose": 0, **arguments}
        model.fit(x, y, 4, callbacks=[grades, do], **arguments)
        return [c.frozen_at for c in grades.components]

    def grades():
        return GradES(
            {"attention": 1e30, "": 1e-30},
            alpha=3,
            monitor=monitor,
            recompile=recompile,
            verbose=0,
        )

    def checkpoint(model):
        return tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    def write(epoch, logs):
        if epoch == 0:
            checkpoint(model).write(tmp_path / "checkpoint")
            weights.extend(small.weights(model))

    def read(logs):
        read = checkpoint(again).read(tmp_path / "checkpoint")
        if monitor == "gradient" or recompile == "never":
            read.assert_existing_objects_matched()
        # Else what was kept of frozen components is gone.

    model, again, weights = new(), new(), []
    write = keras.callbacks.LambdaCallback(on_epoch_end=write)
    frozen_at = fit(model, grades(), write)
    assert any(frozen_at) and not all(frozen_at)
    read_first = keras.callbacks.LambdaCallback(on_train_begin=read)
    resumed = fit(again, grades(), read_first, initial_epoch=1)
    assert resumed == frozen_at
    for actual, expected in zip(small.weights(again), small.weights(model)):
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    # Without GradES it is that of an optimizer like any other.
    again = new()
    again.optimizer.build(again.trainable_variables)
    read(None)
    assert int(again.optimizer.iterations) == 6
    for actual, expected in zip(small.weights(again), weights):
        np.testing.assert_array_equal(actual, expected)
