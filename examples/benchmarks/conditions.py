"""Whether `tau="auto"` holds with other optimizers, batches, schedules.

    python examples/benchmarks/conditions.py

The smallest of the tasks of `tasks.py`, a Transformer on images of digits,
trained at a constant learning rate, or under one changed condition at a time:
plain `fit()`, read off it `EarlyStopping`, and GradES with `tau="auto"`. It
says at which share of the steps each stopped, and the accuracy; not the time,
so other work may run on the machine. It goes on where it was, as `tasks.py`
does.
"""

import dataclasses
import functools

import common
import keras
import numpy as np
import task_methods as methods
from task_list import TASKS
from task_list import argument_parser
from tasks import begin
from tasks import beside_plain

TASK = dataclasses.replace(TASKS["small digits"], decay="none")
NOISE = 0.2
optimizers = keras.optimizers
MOMENTUM = functools.partial(optimizers.SGD, momentum=0.9)


class Alternating(keras.utils.PyDataset):
    """Shuffled batches; every second epoch black and white are exchanged."""

    def __init__(self, x, y, batch_size):
        super().__init__()
        self._x, self._y, self._batch_size = x, y, batch_size
        self._epoch = -1
        self.on_epoch_end()

    def __len__(self):
        return len(self._x) // self._batch_size

    def __getitem__(self, index):
        start = index * self._batch_size
        at = self._order[start : start + self._batch_size]
        x = self._x[at]
        return (1 - x if self._epoch % 2 else x), self._y[at]

    def on_epoch_end(self):
        self._epoch += 1
        rng = np.random.default_rng(self._epoch)
        self._order = rng.permutation(len(self._x))


def load_mislabeled(examples):
    """The data of the task; of those to train on, so many labels are wrong."""
    (x, y), validation, test = TASK.load(examples)
    rng = np.random.default_rng(0)
    is_wrong = rng.random(len(y)) < NOISE
    wrong = (y + rng.integers(1, 10, len(y))) % 10
    return (x, np.where(is_wrong, wrong, y)), validation, test


# What is changed, and with it the learning rate, where that is usual; or the
# arguments of GradES. The rate is constant, if nothing is said.
CONDITIONS = {
    "nothing": {},
    "a rate five times smaller": {"learning_rate": 4e-4},
    "a rate five times larger": {"learning_rate": 1e-2},
    "batches of 8": {"batch_size": 8, "learning_rate": 1e-3},
    "10 steps an epoch": {"batch_size": 112, "learning_rate": 4e-3},
    "1120 steps an epoch": {
        "batch_size": 1,
        "learning_rate": 3e-4,
        "epochs": 5,
    },
    "one epoch": {"epochs": 1},
    "a quarter of the epochs": {"epochs": 10},
    "three times the epochs": {"epochs": 120},
    "a fifth of the labels wrong": {"load": load_mislabeled},
    "inverted every second epoch": {"arrange": Alternating},
    "SGD with momentum": {"optimizer": MOMENTUM, "learning_rate": 3e-3},
    "Adam": {"optimizer": optimizers.Adam},
    "RMSprop": {"optimizer": optimizers.RMSprop, "learning_rate": 1e-3},
    "Lion": {"optimizer": optimizers.Lion, "learning_rate": 3e-4},
    "Muon": {"optimizer": optimizers.Muon, "learning_rate": 2e-3},
    "Adafactor": {"optimizer": optimizers.Adafactor, "learning_rate": 2e-2},
    "half the cooldown": {"grades": {"cooldown": 0.125}},
    "twice the cooldown": {"grades": {"cooldown": 0.5}},
    "cosine decay": {"decay": "cosine"},
    "linear decay": {"decay": "linear"},
    "decay in steps": {"decay": "steps"},
    "cosine decay, 10 epochs": {"decay": "cosine", "epochs": 10},
    "cosine decay, Lion": {
        "decay": "cosine",
        "optimizer": optimizers.Lion,
        "learning_rate": 3e-4,
    },
    "cosine decay, Muon": {
        "decay": "cosine",
        "optimizer": optimizers.Muon,
        "learning_rate": 2e-3,
    },
}
SHOWN = ("plain", "early stopping, 3", "early stopping on accuracy, 3", "auto")


def main(argv=None):
    parser = argument_parser(__doc__.split("\n")[0])
    parser.add_argument(
        "--conditions",
        nargs="+",
        choices=CONDITIONS,
        default=list(CONDITIONS),
    )
    args = parser.parse_args(argv)
    task = TASK.quick(560, 20) if args.quick else TASK
    report, seeds, store = begin("conditions", args)
    rows = [
        row
        for name in args.conditions
        for row in compare(name, task, store, seeds)
    ]
    common.report(report, rows, args.output)


def compare(name, task, store, seeds):
    """A row for each method: means over the seeds."""
    changes = dict(CONDITIONS[name])
    arguments = changes.pop("grades", {})
    task = dataclasses.replace(task, **changes)
    data = task.load(task.examples)
    store = store.of(name, task, grades=arguments)
    results = {}
    for seed in seeds:
        of_seed = store.get(
            f"without-{seed}",
            lambda seed=seed: methods.without_grades(task, data, seed),
        )
        of_seed["auto"] = store.get(
            f"auto-{seed}",
            lambda seed=seed: methods.auto(task, data, seed, **arguments),
        )
        for method, result in of_seed.items():
            results.setdefault(method, []).append(result)
    for method in SHOWN:
        yield {
            "condition": name,
            "method": method,
            **beside_plain(results[method], results["plain"]),
            "of": task.steps,
        }


if __name__ == "__main__":
    main()
