"""How many steps JAX has been given and not yet done, while `fit()` runs.

    python examples/benchmarks/in_flight.py

The host keeps the device busy by giving it steps ahead. Whoever waits for one
of them empties that queue. Plain `fit()` and GradES take turns, run by run;
the queue is counted before each step: where it is empty, the device waits.
"""

import collections

import common
import keras
import numpy as np

import keras_grades

STEPS, WARM_UP = 240, 10
# More are never in flight.
KEPT = 64
METHODS = {
    "plain": None,
    "transfer": {"monitor": "transfer"},
    "gradient": {"tau": 1e-30, "alpha": 0},
    "gradient, if looks waited": {"tau": 1e-30, "alpha": 0},
}


class Waiting(keras_grades.GradES):
    """Waits for the device at each look."""

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch)
        self._run._must_wait = lambda: True


class Counted(keras.Model):
    """Counts, before each step, those whose loss is not there yet."""

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=force)
        taken, step = collections.deque(maxlen=KEPT), self.train_function
        self.in_flight = []

        def counted(state, data):
            waiting = sum(not loss.is_ready() for loss in taken)
            self.in_flight.append(waiting)
            logs, state = step(state, data)
            taken.append(logs["loss"])
            return logs, state

        self.train_function = counted


def main(argv=None):
    args = common.parse_arguments(__doc__, rounds=3).parse_args(argv)
    if keras.backend.backend() != "jax":
        raise SystemExit("This is about JAX: set KERAS_BACKEND=jax.")
    rows = [row for model in args.models for row in measure(model, args.rounds)]
    common.report("in_flight", rows, args.output)


def measure(name, rounds):
    counts = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method, arguments in METHODS.items():
            kind = Waiting if "waited" in method else keras_grades.GradES
            counts[method] += run(name, kind, arguments)[WARM_UP:]
    for method, found in counts.items():
        low, median, high = np.percentile(found, [25, 50, 75])
        yield {
            "model": name,
            "method": method,
            "in flight": median,
            "low": low,
            "high": high,
            "empty": float(np.mean(np.array(found) == 0)),
        }


def run(name, kind, arguments):
    plain = common.build(name)
    model = common.compile_model(Counted(plain.inputs, plain.outputs))
    callbacks = []
    if arguments is not None:
        callbacks = [kind(**arguments, recompile="never", verbose=0)]
    x, y = zip(*(b for b, _ in zip(common.batches(), range(STEPS))))
    x = {k: np.concatenate([each[k] for each in x]) for k in x[0]}
    model.fit(
        x, np.concatenate(y), common.BATCH, verbose=0, callbacks=callbacks
    )
    return model.in_flight


if __name__ == "__main__":
    main()
