"""Whether `tau="auto"` holds with other optimizers, batches, schedules.

    python examples/benchmarks/conditions.py

The smallest of the tasks of `tasks.py`, a Transformer on images of digits,
trained under one changed condition at a time: plain `fit()`, read off it
`EarlyStopping`, and GradES with `tau="auto"`. It says at which share of the
steps each stopped, and the accuracy; not the time, so other work may run on
the machine. It goes on where it was, as `tasks.py` does.
"""

import dataclasses
import functools

import common
import keras
import task_methods as methods
from task_list import TASKS
from task_list import argument_parser
from tasks import begin
from tasks import beside_plain

TASK = TASKS["small digits"]
optimizers = keras.optimizers
MOMENTUM = functools.partial(optimizers.SGD, momentum=0.9)
# What is changed, and with it the learning rate, where that is usual; or the
# arguments of GradES.
CONDITIONS = {
    "as in tasks.py": {},
    "batches of 8": {"batch_size": 8, "learning_rate": 1e-3},
    "batches of 112": {"batch_size": 112, "learning_rate": 4e-3},
    "a quarter of the epochs": {"epochs": 10},
    "three times the epochs": {"epochs": 120},
    "linear decay": {"decay": "linear"},
    "decay in steps": {"decay": "steps"},
    "no decay": {"decay": "none"},
    "SGD with momentum": {"optimizer": MOMENTUM, "learning_rate": 3e-3},
    "RMSprop": {"optimizer": optimizers.RMSprop, "learning_rate": 1e-3},
    "Lion": {"optimizer": optimizers.Lion, "learning_rate": 3e-4},
    "Muon": {"optimizer": optimizers.Muon, "learning_rate": 2e-3},
    "Adafactor": {"optimizer": optimizers.Adafactor, "learning_rate": 2e-2},
    "cooldown of a tenth": {"grades": {"cooldown": 0.1}},
    "cooldown of a half": {"grades": {"cooldown": 0.5}},
}


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
    data = task.load(task.examples)
    rows = [
        row
        for name in args.conditions
        for row in compare(name, task, data, store, seeds)
    ]
    common.report(report, rows, args.output)


def compare(name, task, data, store, seeds):
    """A row for each method: means over the seeds."""
    changes = dict(CONDITIONS[name])
    arguments = changes.pop("grades", {})
    task = dataclasses.replace(task, **changes)
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
    for method in ("plain", "early stopping, 3", "auto"):
        yield {
            "condition": name,
            "method": method,
            **beside_plain(results[method], results["plain"]),
            "of": task.steps,
        }


if __name__ == "__main__":
    main()
