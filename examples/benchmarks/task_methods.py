"""The methods of `tasks.py`: each trains a model and says what came of it."""

import dataclasses
import time

import keras
import numpy as np
import recompile_policy

import keras_grades

# A fixed schedule freezes the blocks from below, at even distances from here
# on. So does Composer's `LayerFreezing`, by default from a half of the run.
FIXED_START = 0.5
# To tune tau, it is tried at what the statistic is at these shares of the
# schedule: that which nine in ten components are below, since training stops
# when all are. The paper's monitor and grace period are kept.
TRIED_AT = (0.55, 0.7, 0.85)
TUNED = {"monitor": "gradient", "norm": "mean_l1", "alpha": 0.5}


class Stopwatch(keras.callbacks.Callback):
    """Keeps the time of `fit()`, part by part, and the weights of each epoch.

    The time runs from here on.

    Attributes:
        first_step: Seconds of the first step: it is compiled.
        epochs: List of dicts: seconds of `training` and `validation`, and the
            `val_loss`. With no validation, empty.
        weights: List of the weights at the end of each epoch.
    """

    def __init__(self):
        super().__init__()
        self.first_step = None
        self.epochs = []
        self.weights = []
        self._first_began = None
        # `fit()` does a part of its work before its callbacks hear of it.
        self._epoch_began = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        if self.first_step is None:
            now = time.perf_counter()
            if self._first_began is not None:
                self.first_step = now - self._first_began
            self._first_began = now

    def on_test_begin(self, logs=None):
        # Waits for the last step: a device may be behind.
        int(self.model.optimizer.iterations)
        self._test_began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or "val_loss" not in logs:
            return
        now = time.perf_counter()
        self.epochs.append(
            {
                "training": self._test_began - self._epoch_began,
                "validation": now - self._test_began,
                "val_loss": logs["val_loss"],
            }
        )
        self.weights.append(self.model.get_weights())
        # To copy them is no part of any method.
        self._epoch_began = time.perf_counter()


def train(task, data, seed, callbacks=(), **fit_options):
    """Runs `fit()` on a fresh model, the same one for the same seed.

    Returns:
        The model, the `Stopwatch`, and a dict of what all methods report.
    """
    (x, y), _, test = data
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = task.compiled()
    began = time.perf_counter()
    watch = Stopwatch()
    model.fit(
        x,
        y,
        task.batch_size,
        epochs=task.epochs,
        verbose=0,
        callbacks=[*callbacks, watch],
        **fit_options,
    )
    seconds = time.perf_counter() - began
    result = {
        "seconds": seconds,
        "steps": int(model.optimizer.iterations),
        "compilation": watch.first_step,
        "frozen": 0.0,
        **tested(model, test),
    }
    return model, watch, result


def tested(model, data):
    """Accuracy and loss, on other data than was trained on."""
    results = model.evaluate(*data, batch_size=128, verbose=0, return_dict=True)
    return {"accuracy": results["accuracy"], "loss": results["loss"]}


def without_grades(task, data, seed):
    """One run that is three: plain `fit()`, and two with `EarlyStopping`.

    All take the same steps until they stop. So this one validates after each
    epoch and keeps the weights; `EarlyStopping` is then shown the losses, and
    says when it would have stopped, and on which weights it would have ended.
    """
    model, watch, result = train(
        task, data, seed, validation_data=data[1], validation_batch_size=128
    )
    training = [e["training"] for e in watch.epochs]
    validation = [e["validation"] for e in watch.epochs]
    results = {"plain": {**result, "seconds": sum(training)}}
    for patience in (1, 3):
        last, best = replay([e["val_loss"] for e in watch.epochs], patience)
        model.set_weights(watch.weights[best])
        results[f"early stopping, {patience}"] = {
            **result,
            "seconds": sum(training[: last + 1]) + sum(validation[: last + 1]),
            "steps": result["steps"] * (last + 1) // task.epochs,
            **tested(model, data[2]),
        }
    return results


def replay(losses, patience):
    """The epochs, from 0, at which `EarlyStopping` stops, and to which it goes
    back."""
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=patience)
    model = keras.Sequential()
    model.stop_training = False
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, loss in enumerate(losses):
        stopping.on_epoch_end(epoch, {"val_loss": loss})
        if model.stop_training:
            break
    return epoch, stopping.best_epoch


def with_grades(task, data, seed, freeze_steps=None, **arguments):
    """`fit()` with GradES, and what its report says."""
    grades = keras_grades.GradES(verbose=0, **arguments)
    if freeze_steps is not None:
        recompile_policy.freeze_at(grades, freeze_steps)
    model, _, result = train(task, data, seed, [grades])
    timing = grades.report.timing
    frozen = [c.frozen_at is not None for c in grades.components]
    rebuilds = sum(c["seconds"] for c in timing["compilations"][1:])
    result["frozen"] = float(np.mean(frozen))
    result["compilation"] += rebuilds
    return model, grades, result


def auto(task, data, seed, **arguments):
    return with_grades(task, data, seed, **arguments)[2]


def shorter_schedule(task, data, seed, epochs):
    """Plain `fit()`, in which the learning rate decays in so many epochs."""
    decay = "settle" if task.decay == "none" else task.decay
    task = dataclasses.replace(task, epochs=epochs, decay=decay)
    return train(task, data, seed)[2]


def fixed_schedule(task, data, seed):
    """Blocks freeze from below at prescribed steps, the highest never."""
    components = keras_grades.find_components(task.build())
    blocks = list(dict.fromkeys(c.block for c in components))
    share = (np.arange(len(blocks)) + 1) / len(blocks)
    due = FIXED_START + (1 - FIXED_START) * share
    of = [blocks.index(c.block) for c in components]
    return with_grades(
        task,
        data,
        seed,
        freeze_steps=(due * task.steps)[of],
        tau=1.0,
        alpha=0,
        truncate_backward=True,
    )[2]


def thresholds(task, data, seed):
    """Measures a whole run; the taus to try, and what it took."""
    _, grades, result = with_grades(task, data, seed, tau=1e-30, **TUNED)
    highest = np.nanquantile(grades.trace["statistic"], 0.9, axis=1)
    window = max(1, len(highest) // 50)
    smooth = np.convolve(highest, np.ones(window) / window, mode="same")
    taus = [float(smooth[int(share * len(smooth))]) for share in TRIED_AT]
    return {**result, "taus": taus}


def with_tau(task, data, seed, tau):
    """One tau, with the accuracy on validation data."""
    model, _, result = with_grades(task, data, seed, tau=tau, **TUNED)
    began = time.perf_counter()
    validated = tested(model, data[1])
    return {
        **result,
        "tau": tau,
        "val_accuracy": validated["accuracy"],
        "validation": time.perf_counter() - began,
    }
