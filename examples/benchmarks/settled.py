"""How long must a model train at a constant rate, and when does GradES say so?

    python examples/benchmarks/settled.py --tasks "small digits" MNIST

Plain `fit()` at a constant learning rate that falls to 0 over the last fifth
of its steps, planned for more and more epochs: what one would reach who knew
when to stop. Beside it the step at which `monitor="transfer"` would have let
the rate fall, had it been allowed to. All accuracies are on validation data:
by them the numbers of that monitor are chosen.
"""

import dataclasses

import common
import numpy as np
import task_methods as methods
from task_list import QUICK
from task_list import TASKS
from task_list import parse_arguments

# Shares of the plan of each task.
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def main(argv=None):
    at_a_constant_rate("settled", __doc__, measure, argv)


def at_a_constant_rate(report, description, measure, argv):
    """Reports what is measured on each task, whose rate does not decay.

    Args:
        report: String, the name of the report.
        description: String, what the script says of itself.
        measure: Function of the name of a task, the task, its data and a list
            of seeds, that returns rows.
        argv: List of strings, or `None`.
    """
    args = parse_arguments(description.split("\n")[0]).parse_args(argv)
    tasks = QUICK if args.quick else TASKS
    seeds = args.seeds[:1] if args.quick else args.seeds
    rows = []
    for name in args.tasks:
        task = dataclasses.replace(tasks[name], decay="none")
        rows += measure(name, task, task.load(task.examples), seeds)
    common.report(report, rows, args.output)


def measure(name, task, data, seeds):
    for seed in seeds:
        yield from measure_seed(name, task, data, seed)


def measure_seed(name, task, data, seed):
    falls_at = crossing(task, data, seed)
    plans = {max(1, round(share * task.epochs)) for share in SHARES}
    for epochs in (None, *sorted(plans)):
        of_plan = task
        if epochs is not None:
            of_plan = dataclasses.replace(task, epochs=epochs, decay="settle")
        model, _, result = methods.train(of_plan, data, seed)
        yield {
            "task": name,
            "seed": seed,
            "plan": "constant" if epochs is None else "settled",
            "steps": result["steps"],
            "validated": methods.tested(model, data[1])["accuracy"],
            "GradES would begin": falls_at,
        }


def crossing(task, data, seed):
    """The step at which the rate would fall, or `None`."""
    never = 10 * task.steps
    _, grades, _ = methods.with_grades(
        task, data, seed, monitor="transfer", alpha=never
    )
    statistic = grades.trace["statistic"]
    is_known = np.isfinite(statistic).any(axis=1)
    together = np.where(is_known, np.nansum(statistic, axis=1), np.inf)
    patience = grades._run.optimizer.rule.criterion.patience
    return first_below(grades.trace["step"], together, patience)


def first_below(steps, values, patience):
    """The step at which values, once above zero, are below for long enough."""
    above = below = 0
    for step, value in zip(steps, values):
        if above <= patience // 2:
            above = above + 1 if 0 < value < np.inf else 0
            continue
        below = below + 1 if value < 0 else 0
        if below > patience:
            return int(step)
    return None


if __name__ == "__main__":
    main()
