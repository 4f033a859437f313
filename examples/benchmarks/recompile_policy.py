"""Whether `recompile="auto"` rebuilds the train step when that pays.

    python examples/benchmarks/recompile_policy.py

Whole runs of `fit()`, compilation included, in which components freeze at
prescribed steps: "auto" against the better of "always" and "never", and
against a plain `fit()` over as many steps. The four take their steps in
turns, each by a clock of its own that stands still while it waits. What
happens between two steps of a run, a few milliseconds, may overlap with the
next one's.
"""

import dataclasses
import math
import threading
import time

import common
import keras
import numpy as np

import keras_grades
from keras_grades.criterion import Prescribed

TARGET, TARGET_OF_PLAIN = 1.1, 1.02
MODES = (None, "never", "auto", "always")
# "always" is given up when it has taken so many times what "never" will take.
HOPELESS = 1.5


def early(n, steps):
    return np.full(n, steps // 10)


def late(n, steps):
    return np.full(n, steps * 9 // 10)


def even(n, steps):
    """From a tenth of the run to nine tenths, six at a time."""
    return np.linspace(steps // 10, steps * 9 // 10, n) // 6 * 6


def one_by_one(n, steps):
    """One a step, or more in a short run."""
    return np.minimum(steps // 10 + np.arange(n), steps - 1)


SCHEDULES = {f.__name__: f for f in (early, even, late, one_by_one)}


def main(argv=None):
    parser = common.parse_arguments(__doc__, rounds=1)
    parser.set_defaults(models=["minilm"])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 60])
    parser.add_argument(
        "--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES)
    )
    args = parser.parse_args(argv)
    for model in args.models:
        run_in_turns(model, 2, "early")  # The first in a process is slower.
    rows = [
        measure(model, steps, schedule, args.rounds)
        for model in args.models
        for steps in args.steps
        for schedule in args.schedules
    ]
    common.report("recompile_policy", rows, args.output)


def measure(name, steps, schedule, rounds):
    runs = [run_in_turns(name, steps, schedule) for _ in range(rounds)]
    plain, never, auto, always = (
        float(np.median([run[mode] for run in runs])) for mode in MODES
    )
    best = min(always, never)
    return {
        "model": name,
        "steps": steps,
        "freezes": schedule,
        "plain s": plain,
        "never s": never,
        "always s": "given up" if math.isinf(always) else always,
        "auto s": auto,
        "auto / best": auto / best,
        "auto / plain": auto / plain,
        "reached": common.reached(
            max(auto / best / TARGET, auto / plain / TARGET_OF_PLAIN), 1.0
        ),
    }


def run_in_turns(name, steps, schedule):
    """Seconds from the start of `fit()` to the end of its last step.

    One for each mode, of which `None` is without GradES; infinite if it was
    given up as hopeless. What comes after the last step is left out: to clear
    away its input, TensorFlow may wait for the other runs.
    """
    turns = common.Turns(MODES)
    timers = {mode: common.InTurns(mode, turns) for mode in MODES}
    clock = Clock()
    seconds = {}

    def fit(mode):
        model, callbacks = prepared[mode]
        turns.wait_for(mode)
        clock.run_by(timers[mode])
        began = clock.perf_counter()
        model.fit(
            common.batches(),
            steps_per_epoch=steps,
            verbose=0,
            callbacks=[timers[mode], *callbacks],
        )
        timer = timers[mode]
        taken = timer.ended - timer.waited - began
        seconds[mode] = taken if len(timer.seconds) == steps else math.inf

    def is_hopeless():
        never = timers["never"].seconds
        to_come = (steps - len(never)) * np.median(never)
        limit = HOPELESS * (sum(never) + to_come)
        return sum(timers["always"].seconds) > limit

    prepared = {
        mode: prepare(name, steps, mode, schedule, clock) for mode in MODES
    }
    prepared["always"][1].append(StopWhen(is_hopeless))
    common.run_in_turns(fit, MODES, turns)
    return seconds


def prepare(name, steps, mode, schedule, clock):
    """A compiled model, and the callbacks to train it with."""
    model = common.compile_model(common.build(name))
    if mode is None:
        return model, []
    n = len(keras_grades.find_components(model))
    grades = keras_grades.GradES(tau=1.0, alpha=0, recompile=mode, verbose=0)
    grades.clock = clock.perf_counter
    freeze_at(grades, SCHEDULES[schedule](n, steps))
    return model, [grades]


class Clock:
    """In each thread, the time that its run has not waited for its turn."""

    def __init__(self):
        self._of_thread = threading.local()

    def run_by(self, timer):
        self._of_thread.timer = timer

    def perf_counter(self):
        return time.perf_counter() - self._of_thread.timer.waited


class StopWhen(keras.callbacks.Callback):
    def __init__(self, is_hopeless):
        super().__init__()
        self.is_hopeless = is_hopeless

    def on_train_batch_end(self, batch, logs=None):
        if self.is_hopeless():
            self._model.stop_training = True


def freeze_at(grades, steps):
    """Prescribes freeze steps, but for the last component: it never freezes.

    When all are frozen, training would end.
    """
    criterion = Prescribed([*steps[:-1], 0])
    grades.policy = dataclasses.replace(grades.policy, criterion=criterion)


if __name__ == "__main__":
    main()
