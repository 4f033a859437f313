"""What it costs that blocks freeze from below, and what it saves.

    python examples/benchmarks/stagger.py --tasks "small digits" MNIST

At a constant learning rate `GradES()` lets the rate fall to 0; meanwhile the
lowest block freezes at a share of that time, the highest at its end. Here are
other shares (at 1 all freeze together), with the backward pass cut short below
what is frozen (`truncate_backward`) and without. All accuracies are on
validation data: by them the share is chosen. Of the work of a step it counts
what is frozen, as `recompile="auto"` does, in the mean over the steps in which
the rate falls.
"""

import numpy as np
import task_methods as methods
from settled import at_a_constant_rate

from keras_grades import actions

SHARES = (0.0, 0.25, 0.5, 1.0)


def main(argv=None):
    at_a_constant_rate("stagger", __doc__, measure, argv)


def measure(name, task, data, seeds):
    for share in SHARES:
        for truncate in (False, True):
            runs = [train(task, data, seed, share, truncate) for seed in seeds]
            yield {
                "task": name,
                "lowest freezes at": share,
                "truncated": truncate,
                "seeds": len(seeds),
                **{k: float(np.mean([r[k] for r in runs])) for k in runs[0]},
            }


def train(task, data, seed, share, truncate):
    chosen, actions.FIRST_AT_REST = actions.FIRST_AT_REST, share
    try:
        model, grades, result = methods.with_grades(
            task, data, seed, truncate_backward=truncate
        )
    finally:
        actions.FIRST_AT_REST = chosen
    return {
        "validated": methods.tested(model, data[1])["accuracy"],
        "steps": result["steps"],
        "work frozen": work_frozen(grades),
        "seconds": result["seconds"],
        "rebuilds": len(grades.report.timing["compilations"]) - 1,
    }


def work_frozen(grades):
    """The share of a step's work, in the mean over the fall of the rate."""
    run = grades._run
    frozen_at = np.array([c.frozen_at for c in grades.components])
    fall = range(int(run._converged_at.max()), grades.stopped_step)
    return float(
        np.mean([run.rebuilder._work.share(frozen_at <= t) for t in fall])
    )


if __name__ == "__main__":
    main()
