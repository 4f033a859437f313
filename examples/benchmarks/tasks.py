"""GradES against what people use today, on real tasks.

    python examples/benchmarks/tasks.py            # hours
    python examples/benchmarks/tasks.py --quick    # a quarter of an hour
    python examples/benchmarks/tasks.py --constant # the rate does not decay

It can be stopped, and goes on where it was: each run is kept in a file of its
own, in the folder `--output`. It writes a table and a picture, of accuracy
against time. Nothing else should run on the machine meanwhile.
"""

import dataclasses
import json
import math
import pathlib
import re
import zlib

import common
import keras
import matplotlib.pyplot as plt
import numpy as np
import task_methods as methods
from matplotlib.ticker import MaxNLocator
from task_list import QUICK
from task_list import TASKS
from task_list import parse_arguments

from keras_grades import policy

BASELINE = "early stopping, 3"
METHODS = (
    "fixed schedule",
    "tuned tau",
    "auto",
    "plain, in the wanted time",
    "plain, as long as auto",
)
# At a constant rate: the controls settle, as auto does.
AT_CONSTANT = (
    "plateau",
    "auto",
    "plain, as long as auto",
    "plain, settled",
)
ALL = (*METHODS, "plateau", "plain, settled")
COMPARED = (*methods.EARLY_STOPPING, "tuned tau", "auto")
# The low end of the paper, and points of accuracy that may be lost: on
# average over all tasks and seeds, and in any of them.
FASTER, LOST, LOST_AT_WORST = 1.57, 0.005, 0.01


def main(argv=None):
    parser = parse_arguments(__doc__.split("\n")[0])
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=ALL,
        help="beside plain fit() and EarlyStopping",
    )
    parser.add_argument(
        "--constant",
        action="store_true",
        help="at a constant learning rate, as Keras users mostly train",
    )
    args = parser.parse_args(argv)
    if args.methods is None:
        args.methods = list(AT_CONSTANT if args.constant else METHODS)
    if "plain, as long as auto" in args.methods and "auto" not in args.methods:
        parser.error("'plain, as long as auto' needs 'auto' among --methods")
    args.methods.sort(key=ALL.index)
    tasks = QUICK if args.quick else TASKS
    name = "tasks"
    if args.constant:
        name = "tasks_constant"
        tasks = {
            task: dataclasses.replace(each, decay="none")
            for task, each in tasks.items()
        }
    name, seeds, store = begin(name, args)
    warm_up()
    results = {
        task: compare(
            tasks[task], store.of(task, tasks[task]), seeds, args.methods
        )
        for task in args.tasks
    }
    rows = [row for task in results for row in summarize(task, results[task])]
    common.report(name, rows, args.output)
    if "auto" in args.methods:
        print(*verdict(results), sep="\n")
    plot(rows, args.output / f"{name}_{keras.backend.backend()}.png")


def begin(name, args):
    """The name of the report, the seeds, and where results are kept."""
    name = f"{name}_quick" if args.quick else name
    seeds = args.seeds[:1] if args.quick else args.seeds
    return name, seeds, Store(args.output / f"{name}_{keras.backend.backend()}")


class Store:
    """Results in files, by their name: what is there is not run again."""

    def __init__(self, folder):
        self._folder = folder

    def of(self, name, task, **more_settings):
        """For one task. What is there must be of the same settings, code and
        machine."""
        store = Store(self._folder / re.sub(r"\W+", "_", name))
        fields = dataclasses.asdict(task)
        settings = {k: v for k, v in fields.items() if not callable(v)}
        settings |= {
            "auto": policy.DEFAULTS,
            "tuned": methods.TUNED,
            "code": code(),
            "machine": common.machine(),
        }
        settings |= more_settings
        kept = store.get("settings", lambda: settings)
        if kept != settings:
            raise ValueError(
                f"The results in {store._folder} are of other settings, code "
                "or machine. Remove them, or use another folder (`--output`). "
                f"There: {kept}. Here: {settings}"
            )
        return store

    def get(self, name, run):
        """The result called so, else what `run` returns."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            result = run()
            self._folder.mkdir(parents=True, exist_ok=True)
            # Whole or not at all, whenever this is interrupted.
            part = path.with_suffix(".part")
            part.write_text(json.dumps(result))
            part.replace(path)
            print(f"{path}: {json.dumps(result)}", flush=True)
        return json.loads(path.read_text())


def code():
    """A fingerprint of the code that a result depends on."""
    here = pathlib.Path(__file__).parent
    library = pathlib.Path(policy.__file__).parent
    data = here.parent / "data.py"
    files = [data, *here.glob("*.py"), *library.rglob("*.py")]
    return f"{zlib.crc32(b''.join(f.read_bytes() for f in sorted(files))):08x}"


def warm_up():
    """The first `fit()` in a process takes longer than the next."""
    task = QUICK["small digits"].quick(64, 1)
    methods.train(task, task.load(task.examples), seed=0)


def compare(task, store, seeds, names):
    """Runs the methods; a dict from the method to one result a seed."""
    data = task.load(task.examples)
    results = {}
    for seed in seeds:
        of_seed = store.get(
            f"without-{seed}",
            lambda seed=seed: methods.without_grades(task, data, seed),
        )
        for name in names:
            of_seed[name] = run(
                name, task, data, store, seed, seeds[0], of_seed
            )
        for name, result in of_seed.items():
            results.setdefault(name, []).append(result)
    return results


def run(name, task, data, store, seed, seed_to_tune, done):
    """The result of a method, or of a control (`epochs_of_control`)."""
    if name.startswith("plain"):
        epochs = epochs_of_control(name, task, done)
        return store.get(
            f"epochs-{epochs}-{seed}",
            lambda: methods.shorter_schedule(task, data, seed, epochs),
        )
    if name == "tuned tau":
        tau, tuning = tune(task, data, store, seed_to_tune)
        result = store.get(
            f"tau-{tau:.3g}-{seed}",
            lambda: methods.with_tau(task, data, seed, tau),
        )
        return {**result, "tuning": tuning}
    method = {
        "fixed schedule": methods.fixed_schedule,
        "plateau": methods.plateau,
        "auto": methods.auto,
    }
    return store.get(f"{name}-{seed}", lambda: method[name](task, data, seed))


def epochs_of_control(name, task, done):
    """How long a plain `fit()` is, whose whole schedule is shorter.

    It shows what they have who know beforehand how long to train: as long as
    there is time for when as fast as is wanted, or as long as auto did.
    """
    if name == "plain, settled":
        return task.epochs
    if name == "plain, as long as auto":
        epochs = task.epochs * done["auto"]["steps"] / task.steps
    else:
        compilation = done["plain"]["compilation"]
        training = done["plain"]["seconds"] - compilation
        seconds = done[BASELINE]["seconds"] / FASTER - compilation
        epochs = task.epochs * seconds / training
    return max(1, round(epochs))


def tune(task, data, store, seed):
    """The fastest tau that loses no more than auto may; the seconds to tune.

    It goes by the accuracy on the data to validate on.
    """
    probe = store.get(
        f"probe-{seed}", lambda: methods.thresholds(task, data, seed)
    )
    tried = [
        store.get(
            f"tau-{tau:.3g}-{seed}",
            lambda tau=tau: methods.with_tau(task, data, seed, tau),
        )
        for tau in probe["taus"]
    ]
    top = max(r["val_accuracy"] for r in tried)
    as_good = [r for r in tried if r["val_accuracy"] >= top - LOST]
    best = min(as_good, key=lambda r: r["seconds"])
    seconds = [r["seconds"] + r["validation"] for r in tried]
    return best["tau"], probe["seconds"] + sum(seconds)


def summarize(task, results):
    """One row a method: means over seeds, and how it compares."""
    baseline = [r["seconds"] for r in results[BASELINE]]
    for method, runs in results.items():
        seconds = np.array([r["seconds"] for r in runs])
        loss = float(np.mean([r["loss"] for r in runs]))
        yield {
            "task": task,
            "method": method,
            **beside_plain(runs, results["plain"]),
            "loss": loss,
            "perplexity": math.exp(loss),
            "seconds": float(seconds.mean()),
            "times faster": float(np.mean(baseline) / seconds.mean()),
            "compilation s": float(np.mean([r["compilation"] for r in runs])),
            "tuning s": float(runs[0].get("tuning", 0.0)),
        }


def beside_plain(runs, plain):
    """What does not depend on the time: means over seeds."""
    lost = accuracies(plain) - accuracies(runs)
    return {
        "seeds": len(runs),
        "accuracy": float(accuracies(runs).mean()),
        "of plain, points": float(-100 * lost.mean()),
        "worst": float(-100 * lost.max()),
        "steps": float(np.mean([r["steps"] for r in runs])),
        "frozen": float(np.mean([r["frozen"] for r in runs])),
    }


def accuracies(runs):
    return np.array([r["accuracy"] for r in runs])


def verdict(results):
    """Whether `tau="auto"` does what it must: lines to print."""
    rows = {
        task: {row["method"]: row for row in summarize(task, of_task)}
        for task, of_task in results.items()
    }
    lost = np.concatenate(
        [
            accuracies(r["plain"]) - accuracies(r["auto"])
            for r in results.values()
        ]
    )
    faster = {task: of["auto"]["times faster"] for task, of in rows.items()}
    front = [task for task, of in rows.items() if is_on_front(of)]
    yield (
        f"auto: at least {FASTER} times faster than {BASELINE}: "
        f"{sum(f >= FASTER for f in faster.values())} of {len(rows)} tasks ("
        + ", ".join(f"{task} {f:.2f}" for task, f in faster.items())
        + ")"
    )
    yield (
        f"auto: points of accuracy lost, of plain: {100 * lost.mean():.2f} on "
        f"average (may be {100 * LOST:.1f}), {100 * lost.max():.2f} at worst "
        f"(may be {100 * LOST_AT_WORST:.1f})"
    )
    yield (
        f"auto: on the front of accuracy against time, among "
        f"{', '.join(COMPARED)}: {len(front)} of {len(rows)} tasks"
    )


def is_on_front(rows):
    """Whether none that is compared is better in one and as good in both."""
    auto = rows["auto"]
    return not any(
        row["seconds"] <= auto["seconds"]
        and row["accuracy"] >= auto["accuracy"]
        and (row["seconds"], row["accuracy"])
        != (auto["seconds"], auto["accuracy"])
        for method, row in rows.items()
        if method in COMPARED
    )


def plot(rows, path):
    """Accuracy against time, one plot a task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(3.2 * len(tasks), 3.4), squeeze=False
    )
    for axis, task in zip(axes[0], tasks):
        for row in rows:
            if row["task"] == task:
                is_auto = row["method"] == "auto"
                axis.plot(
                    row["seconds"],
                    100 * row["accuracy"],
                    "*" if is_auto else "o",
                    markersize=14 if is_auto else 7,
                    label=row["method"],
                )
        axis.set(title=task, xlabel="time of fit() (s)")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy (%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels))
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
