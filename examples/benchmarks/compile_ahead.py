"""What it gives to compile the next train step while this one trains.

    python examples/benchmarks/compile_ahead.py --models minilm

At the end of a run blocks freeze from below, at steps that are known ahead.
The train step is rebuilt for each of them: compiled when it is needed, and
compiled beside training, run by run in turns. JAX; elsewhere a rebuild is
traced when it is needed.
"""

import time

import common
import keras
import numpy as np

import keras_grades
from keras_grades.backend import backend

STEPS, FALL = 100, 60


class Timed(keras.callbacks.Callback):
    """Takes the time at the end of each step, which it waits for."""

    def __init__(self):
        super().__init__()
        self.ended = []

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])
        self.ended.append(time.perf_counter())


def main(argv=None):
    parser = common.parse_arguments(__doc__, rounds=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--fall", type=int, default=FALL)
    args = parser.parse_args(argv)
    if keras.backend.backend() != "jax":
        raise SystemExit("This is about JAX: set KERAS_BACKEND=jax.")
    rows = [
        row
        for model in args.models
        for row in measure(model, args.rounds, args.steps, args.fall)
    ]
    common.report("compile_ahead", rows, args.output)


def measure(name, rounds, steps, fall):
    runs = {"when needed": [], "beside training": []}
    for _ in range(rounds):
        for how, found in runs.items():
            found.append(run(name, steps, fall, how == "beside training"))
    for how, found in runs.items():
        yield {
            "model": name,
            "compiled": how,
            **{
                key: float(np.median([each[key] for each in found]))
                for key in found[0]
            },
        }


def run(name, steps, fall, is_ahead):
    model = common.compile_model(common.build(name))
    blocks = keras_grades.find_components(model)
    in_a_block = sum(c.block == blocks[0].block for c in blocks)
    grades = keras_grades.GradES(
        cooldown=fall, recompile=in_a_block, truncate_backward=True, verbose=0
    )
    timed = Timed()
    compiles_ahead = backend.compiles_ahead
    if not is_ahead:
        backend.compiles_ahead = lambda *_: False
    try:
        model.fit(
            common.batches(),
            steps_per_epoch=steps,
            verbose=0,
            callbacks=[grades, timed],
        )
    finally:
        backend.compiles_ahead = compiles_ahead
    seconds = np.diff(timed.ended)
    before = np.median(seconds[steps // 10 : steps - fall - 1])
    rebuilds = [c["step"] for c in grades.report.timing["compilations"][1:]]
    # The first difference is that of the second step.
    at_rebuilds = seconds[np.array(rebuilds) - 2] / before
    others = np.delete(seconds, np.array(rebuilds) - 2)[steps - fall - 2 :]
    return {
        "rebuilds": len(rebuilds),
        "step s": before,
        "steps at a rebuild": np.median(at_rebuilds),
        "most at one": at_rebuilds.max(),
        "most at another step": others.max() / before,
        "fall s": seconds[steps - fall - 1 :].sum(),
        "of as many steps": seconds[steps - fall - 1 :].sum() / fall / before,
    }


if __name__ == "__main__":
    main()
