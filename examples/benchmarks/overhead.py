"""What GradES costs a step while nothing is frozen.

    python examples/benchmarks/overhead.py

A `fit()` with GradES that never freezes, for each monitor, takes steps in
turns with a plain one.
"""

import common

import keras_grades

TARGETS = {
    "transfer": 1.01,
    "gradient": 1.01,
    "gradient_change": 1.03,
    "weight_change": 1.03,
    "relative_change": 1.01,
}


def main(argv=None):
    parser = common.parse_arguments(__doc__, rounds=24)
    parser.add_argument(
        "--monitors", nargs="+", choices=TARGETS, default=list(TARGETS)
    )
    args = parser.parse_args(argv)
    rows = [
        row
        for model in args.models
        for row in measure(model, args.monitors, args.rounds)
    ]
    common.report("overhead", rows, args.output)


def measure(name, monitors, rounds):
    runs = {"plain": (common.compile_model(common.build(name)), [])}
    for monitor in monitors:
        # Without a grace period the host looks at the state from the start.
        # The default has no threshold of one's own, and needs longer to know.
        tau = {} if monitor == "transfer" else {"tau": 1e-30, "alpha": 0}
        never = keras_grades.GradES(monitor=monitor, verbose=0, **tau)
        runs[monitor] = (common.compile_model(common.build(name)), [never])
    seconds = common.time_in_turns(runs, rounds, planned=1000)
    for monitor in monitors:
        target = TARGETS[monitor]
        ratio = common.ratio(seconds[monitor], seconds["plain"])
        yield {
            "model": name,
            "monitor": monitor,
            "ratio": ratio["median"],
            "low": ratio["low"],
            "high": ratio["high"],
            "of all steps": total(seconds[monitor]) / total(seconds["plain"]),
            "target": target,
            "reached": common.reached(ratio["median"], target),
        }


def total(seconds):
    """With the looks, which a median leaves out: one step in five."""
    return float(seconds.sum())


if __name__ == "__main__":
    main()
