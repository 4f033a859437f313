"""Whether `recompile="auto"` rebuilds the train step when that pays.

    python examples/benchmarks/recompile_policy.py

Whole runs of `fit()`, compilation included, in which components freeze at
prescribed steps: "auto" against the better of "always" and "never", and
against a plain `fit()` over as many steps.
"""

import time
from unittest import mock

import common
import keras
import numpy as np

import keras_grades
from keras_grades import optimizer

TARGET, TARGET_OF_PLAIN = 1.1, 1.02


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
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 80])
    parser.add_argument(
        "--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES)
    )
    args = parser.parse_args(argv)
    rows = [
        row
        for model in args.models
        for steps in args.steps
        for row in measure(model, steps, args.schedules, args.rounds)
    ]
    common.report("recompile_policy", rows, args.output)


def measure(name, steps, schedules, rounds):
    """Runs everything once a round, so that all meet the same machine."""
    run(name, steps=2)  # The first run of a process takes longer.
    seconds = {}
    for _ in range(rounds):
        keep(seconds, "plain", run(name, steps))
        for schedule in schedules:
            for mode in ("never", "auto", "always"):
                taken = run(name, steps, mode, schedule)
                keep(seconds, (mode, schedule), taken)
    median = {key: float(np.median(s)) for key, s in seconds.items()}
    for schedule in schedules:
        never, auto, always = (
            median[mode, schedule] for mode in ("never", "auto", "always")
        )
        best = min(always, never)
        yield {
            "model": name,
            "steps": steps,
            "freezes": schedule,
            "plain s": median["plain"],
            "never s": never,
            "always s": always,
            "auto s": auto,
            "auto / best": auto / best,
            "auto / plain": auto / median["plain"],
            "reached": common.reached(
                max(
                    auto / best / TARGET,
                    auto / median["plain"] / TARGET_OF_PLAIN,
                ),
                1.0,
            ),
        }


def keep(seconds, key, value):
    seconds.setdefault(key, []).append(value)


def run(name, steps, mode=None, schedule=None):
    """Seconds that `fit()` takes."""
    model = common.compile_model(common.build(name))
    if mode is None:
        return fit(model, steps, [])
    n = len(keras_grades.find_components(model))
    decide = prescribed(SCHEDULES[schedule](n, steps))
    grades = keras_grades.GradES(tau=1.0, alpha=0, recompile=mode, verbose=0)
    with mock.patch.object(optimizer, "decide", decide):
        return fit(model, steps, [grades])


def fit(model, steps, callbacks):
    began = time.perf_counter()
    model.fit(
        common.batches(), steps_per_epoch=steps, verbose=0, callbacks=callbacks
    )
    return time.perf_counter() - began


def prescribed(freeze_steps):
    """In place of the rule: freezes at given steps, but the last never.

    When all are frozen, training would end.
    """
    due = freeze_steps.astype("int32")
    due[-1] = np.iinfo("int32").max

    def decide(statistic, below, frozen_at, step, tau, **arguments):
        freezes = keras.ops.logical_and(
            keras.ops.less_equal(due, step), keras.ops.equal(frozen_at, 0)
        )
        return below, keras.ops.where(freezes, step, frozen_at)

    return decide


if __name__ == "__main__":
    main()
