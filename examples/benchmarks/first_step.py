"""What GradES adds to the first step, in which the train step is compiled.

    python examples/benchmarks/first_step.py

Runs of one step, each with a new model, of a plain `fit()` and of each
monitor in turns.
"""

import time

import common
import numpy as np

import keras_grades
from keras_grades.monitors import MONITORS


def main(argv=None):
    args = common.parse_arguments(__doc__, rounds=3).parse_args(argv)
    rows = [row for model in args.models for row in measure(model, args.rounds)]
    common.report("first_step", rows, args.output)


def measure(name, rounds):
    for monitor in (None, *MONITORS):
        run(name, monitor)  # The first in a process is slower.
    seconds = {monitor: [] for monitor in (None, *MONITORS)}
    for _ in range(rounds):
        for monitor, taken in seconds.items():
            taken.append(run(name, monitor))
    for monitor in MONITORS:
        plain, with_grades = np.array(seconds[None]), np.array(seconds[monitor])
        ratio = common.ratio(with_grades, plain)
        yield {
            "model": name,
            "monitor": monitor,
            "plain s": float(np.median(plain)),
            "added s": float(np.median(with_grades - plain)),
            "ratio": ratio["median"],
            "low": ratio["low"],
            "high": ratio["high"],
        }


def run(name, monitor=None):
    """Seconds that a `fit()` of one step takes; `None` is without GradES."""
    model = common.compile_model(common.build(name))
    callbacks = []
    if monitor is not None:
        callbacks = [
            keras_grades.GradES(tau=1e-30, alpha=0, monitor=monitor, verbose=0)
        ]
    began = time.perf_counter()
    model.fit(
        common.batches(), steps_per_epoch=1, verbose=0, callbacks=callbacks
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
