"""The methods of `tasks.py`: each trains a model and says what came of it."""

import dataclasses
import time

import keras
import numpy as np
import recompile_policy

import keras_grades

# What it goes by, and its patience in epochs.
EARLY_STOPPING = {
    "early stopping, 1": ("loss", 1),
    "early stopping, 3": ("loss", 3),
    "early stopping on accuracy, 1": ("accuracy", 1),
    "early stopping on accuracy, 3": ("accuracy", 3),
}
BETTER = {"loss": "min", "accuracy": "max"}
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
            `loss` and `accuracy` that was validated. With no validation,
            empty.
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
                "loss": logs["val_loss"],
                "accuracy": logs["val_accuracy"],
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
    source = x, y, task.batch_size
    if task.arrange is not None:
        source = (task.arrange(*source),)
    began = time.perf_counter()
    watch = Stopwatch()
    model.fit(
        *source,
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
    # KerasHub calls it "sparse_categorical_accuracy".
    accuracy = next(v for k, v in results.items() if k.endswith("accuracy"))
    return {"accuracy": accuracy, "loss": results["loss"]}


def without_grades(task, data, seed):
    """One run that is five: plain `fit()`, and four with `EarlyStopping`.

    All take the same steps until they stop. So this one validates after each
    epoch and keeps the weights; `EarlyStopping` is then shown the losses, or
    the accuracies, and says when it would have stopped, and on which weights
    it would have ended: it restores the best.
    """
    model, watch, result = train(
        task, data, seed, validation_data=data[1], validation_batch_size=128
    )
    training = [e["training"] for e in watch.epochs]
    validation = [e["validation"] for e in watch.epochs]
    results = {"plain": {**result, "seconds": sum(training)}}
    for name, (monitor, patience) in EARLY_STOPPING.items():
        values = [e[monitor] for e in watch.epochs]
        last, best = replay(values, monitor, patience)
        model.set_weights(watch.weights[best])
        results[name] = {
            **result,
            "seconds": sum(training[: last + 1]) + sum(validation[: last + 1]),
            "steps": result["steps"] * (last + 1) // task.epochs,
            **tested(model, data[2]),
        }
    return results


def replay(values, monitor, patience):
    """The epochs, from 0, at which `EarlyStopping` stops, and to which it goes
    back."""
    name = f"val_{monitor}"
    stopping = keras.callbacks.EarlyStopping(
        name, patience=patience, mode=BETTER[monitor]
    )
    model = keras.Sequential()
    model.stop_training = False
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, value in enumerate(values):
        stopping.on_epoch_end(epoch, {name: value})
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


def plateau(task, data, seed):
    """`ReduceLROnPlateau` on the training loss: it needs no validation."""
    reduce = keras.callbacks.ReduceLROnPlateau("loss", factor=0.2, patience=2)
    return train(task, data, seed, [reduce])[2]


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
