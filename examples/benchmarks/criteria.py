"""At which step each criterion without a scale would have frozen what.

    python examples/benchmarks/criteria.py --tasks "small digits" MNIST

A plain run of each task of `tasks.py`, in which nothing freezes. At each step
a sample of each matrix and of its gradient is looked at, and each criterion
says which components have converged: at the first step, after 20, at which it
was below a threshold ten times in a row. Beside it stands the test accuracy
at the end of the epoch in which the last of them did. It shows which
criteria are clocks at all; what freezing by them does, `tasks.py` shows.
"""

import dataclasses
import math
from typing import NamedTuple

import common
import keras
import numpy as np
import task_methods as methods
from task_list import QUICK
from task_list import TASKS
from task_list import parse_arguments

import keras_grades
from keras_grades.monitors.relative_change import relative

SAMPLE = 1024
DECAY = 0.95
PATIENCE = 10
SKIPPED = 20


class Recording(keras.optimizers.AdamW):
    """AdamW that keeps a sample of each gradient, to be looked at."""

    def build(self, variables):
        super().build(variables)
        self.samples = [
            self.add_variable(
                (len(places(v)),), name=f"gradient_{i}", dtype="float32"
            )
            for i, v in enumerate(variables)
        ]

    def update_step(self, gradient, variable, learning_rate):
        i = self._get_variable_index(variable)
        flat = keras.ops.reshape(gradient, (-1,))
        sample = keras.ops.take(flat, places(variable), axis=0)
        self.samples[i].assign(keras.ops.cast(sample, "float32"))
        super().update_step(gradient, variable, learning_rate)


def places(variable):
    """Where the entries of its sample are, at random."""
    size = math.prod(variable.shape)
    rng = np.random.default_rng(0)
    return rng.choice(size, min(SAMPLE, size), replace=False).astype("int32")


def mean(values, decay=DECAY):
    """The running mean over the first axis, free of bias."""
    average, weight, found = 0.0, 0.0, []
    for value in values:
        average = decay * average + (1 - decay) * value
        weight = decay * weight + 1 - decay
        found.append(average / weight)
    return np.array(found)


class Seen(NamedTuple):
    """What a run looked like, step by step.

    Attributes:
        gradients: Samples, of shape `(steps, components, entries)`.
        weights: Samples; there is one step more of them.
        changes: Mean absolute change of all entries of a component, of shape
            `(steps, components)`.
    """

    gradients: np.ndarray
    weights: np.ndarray
    changes: np.ndarray


# Each criterion returns an array of shape (steps, components).


def signal_to_noise(seen):
    """1 for pure noise: the squared mean, of the mean square."""
    gradients = seen.gradients
    steps = np.arange(1, len(gradients) + 1)[:, None]
    signal = (mean(gradients) ** 2).sum(-1) / mean((gradients**2).sum(-1))
    few = (1 - DECAY**steps) / (1 + DECAY**steps)
    return signal * (1 + DECAY) / (1 - DECAY) * few


def cosine(seen):
    """Of the angle between successive gradients."""
    gradients = seen.gradients
    products = (gradients[1:] * gradients[:-1]).sum(-1)
    norms = np.linalg.norm(gradients, axis=-1)
    cosines = products / np.maximum(norms[1:] * norms[:-1], 1e-30)
    return mean(np.concatenate([np.ones_like(cosines[:1]), cosines]))


def gradient_of_peak(seen):
    smooth = mean(np.abs(seen.gradients).mean(-1))
    return smooth / np.maximum.accumulate(smooth)


def change_of_peak(seen):
    smooth = mean(np.abs(np.diff(seen.weights, axis=0)).mean(-1))
    return smooth / np.maximum.accumulate(smooth)


def displacement(seen):
    """To which power of the steps the distance from the start grows.

    Pesme et al., "On Convergence-Diagnostic based Step Sizes for Stochastic
    Gradient Descent" (ICML 2020).
    """
    moved = seen.weights[1:] - seen.weights[0]
    distance = np.linalg.norm(moved, axis=-1)
    steps = np.arange(1, len(distance) + 1)
    half = np.maximum(steps // 2, 1)
    grown = np.log(np.maximum(distance, 1e-30))
    grown = grown - grown[half - 1]
    return grown / np.log(np.maximum(steps / half, 1.0001))[:, None]


def relative_change(seen):
    """The monitor itself, on this sample."""
    return relative_sizes(np.abs(np.diff(seen.weights, axis=0)).mean(-1))


def relative_change_of_all(seen):
    """The same, of all entries: what the sample stands for."""
    return relative_sizes(seen.changes)


def relative_sizes(sizes):
    state = [
        keras.ops.zeros(sizes.shape[1:], dtype)
        for dtype in ("int32", "float32", "float32")
    ]
    found = []
    for size in sizes.astype("float32"):
        ratio, *state = relative(keras.ops.convert_to_tensor(size), *state)
        found.append(keras.ops.convert_to_numpy(ratio))
    return np.array(found)


CRITERIA = {
    signal_to_noise: (0.5, 1.0),
    cosine: (0.0, 0.05),
    gradient_of_peak: (0.1, 0.2),
    change_of_peak: (0.05, 0.1),
    displacement: (0.2, 0.3),
    relative_change: (0.3, 0.4, 0.5, 0.6),
    relative_change_of_all: (0.5,),
}


def main(argv=None):
    parser = parse_arguments(__doc__.split("\n")[0])
    parser.set_defaults(seeds=[0])
    args = parser.parse_args(argv)
    tasks = QUICK if args.quick else TASKS
    rows = [
        row
        for name in args.tasks
        for seed in args.seeds
        for row in judge(name, seed, *record(tasks[name], seed))
    ]
    common.report("criteria", rows, args.output)


def record(task, seed):
    """A plain run; samples, and the test accuracy after each epoch."""
    (x, y), _, test = task.load(task.examples)
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = dataclasses.replace(task, optimizer=Recording).compiled()
    optimizer = model.optimizer
    components = keras_grades.find_components(model)
    matrices = [
        [v for v in c.variables if len(v.shape) > 1] or c.variables
        for c in components
    ]
    place = {id(v): i for i, v in enumerate(model.trainable_variables)}
    gradients, weights, changes, accuracy = [], [], [], []

    def sampled(value_of):
        """A row a component, filled up with zeros."""
        rows = [np.concatenate([value_of(v) for v in m]) for m in matrices]
        block = np.zeros((len(rows), max(map(len, rows))), "float32")
        for row, sample in zip(block, rows):
            row[: len(sample)] = sample
        return block

    def weight_of(v):
        return v.numpy().reshape(-1)[places(v)]

    def gradient_of(v):
        return optimizer.samples[place[id(v)]].numpy()

    def everything():
        return [
            np.concatenate([v.numpy().reshape(-1) for v in m]) for m in matrices
        ]

    per_epoch = -(-len(y) // task.batch_size)

    def look(step, logs):
        nonlocal before
        now = everything()
        changes.append([np.abs(n - b).mean() for n, b in zip(now, before)])
        before = now
        gradients.append(sampled(gradient_of))
        weights.append(sampled(weight_of))
        if (step + 1) % per_epoch == 0:
            accuracy.append(methods.tested(model, test)["accuracy"])

    before = everything()
    weights.append(sampled(weight_of))
    # An epoch of one step each: at its end, everything can be read.
    model.fit(
        shuffled(x, y, task.batch_size, seed),
        steps_per_epoch=1,
        epochs=task.steps,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)],
    )
    seen = Seen(*map(np.array, (gradients, weights, changes)))
    return seen, np.array(accuracy)


def shuffled(x, y, batch_size, seed):
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(y))
        for i in range(0, len(order), batch_size):
            batch = order[i : i + batch_size]
            if isinstance(x, dict):
                yield {k: v[batch] for k, v in x.items()}, y[batch]
            else:
                yield x[batch], y[batch]


def judge(name, seed, seen, accuracy):
    """A row for each criterion and threshold."""
    steps = len(seen.gradients)
    per_epoch = steps // len(accuracy)
    for criterion, taus in CRITERIA.items():
        statistic = criterion(seen)
        for tau in taus:
            crossed = np.sort(crossings(statistic, tau))
            last = crossed[-1]
            is_reached = np.isfinite(last)
            epoch = int(last - 1) // per_epoch if is_reached else -1
            yield {
                "task": name,
                "seed": seed,
                "criterion": criterion.__name__,
                "tau": tau,
                "never": int((~np.isfinite(crossed)).sum()),
                "first": float(crossed[0]),
                "median": float(crossed[len(crossed) // 2]),
                "last": float(last),
                "of steps": steps,
                "accuracy then": float(accuracy[epoch]) if is_reached else None,
                "at the end": float(accuracy[-1]),
            }


def crossings(statistic, tau):
    """The step at which each component has converged, else infinity."""
    found = np.full(statistic.shape[1], np.inf)
    below = np.zeros(statistic.shape[1], int)
    for step, row in enumerate(statistic, start=1):
        below = np.where((row < tau) & (step > SKIPPED), below + 1, 0)
        has = (below >= PATIENCE) & ~np.isfinite(found)
        found[has] = step
    return found


if __name__ == "__main__":
    main()
