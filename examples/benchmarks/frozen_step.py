"""How fast a step is once GradES has frozen, and how fast it could be.

    python examples/benchmarks/frozen_step.py

GradES freezes at the second step, in the middle of `fit()`, and takes steps
in turns with a model whose flags were set by hand before `compile()`, and
with one that is not frozen at all.
"""

import common

import keras_grades

TARGET = 1.02
FREEZE_AT = 2


def main(argv=None):
    args = common.parse_arguments(__doc__, rounds=15).parse_args(argv)
    rows = [
        measure(model, case, args.rounds)
        for model in args.models
        for case in CASES
    ]
    common.report("frozen_step", rows, args.output)


def all_but_one(model):
    """All components but the last: when all are frozen, training ends."""
    return keras_grades.find_components(model)[:-1]


# What freezes, and whether the backward pass is cut short below.
CASES = {
    "half": (common.half, False),
    "all": (all_but_one, False),
    "all below the last block, truncated": (common.below_the_last_block, True),
}


def measure(name, case, rounds):
    choose, truncate = CASES[case]
    model = common.compile_model(common.build(name))
    grades = keras_grades.GradES(
        tau=common.tau_for(choose(model)),
        alpha=FREEZE_AT,
        recompile="always",
        truncate_backward=truncate,
        verbose=0,
    )
    by_hand = common.build(name)
    for component in choose(by_hand):
        for variable in component.variables:
            variable.trainable = False
    if truncate:
        freeze_below_the_last_block(by_hand)
    seconds = common.time_in_turns(
        {
            "plain": (common.compile_model(common.build(name)), []),
            "by hand": (common.compile_model(by_hand), []),
            "GradES": (model, [grades]),
        },
        rounds,
        # So few that it looks, and rebuilds, while it warms up.
        planned=400,
    )
    check_rebuilt(grades)
    ratio = common.ratio(seconds["GradES"], seconds["by hand"])
    whole = common.ratio(seconds["GradES"], seconds["plain"])
    return {
        "model": name,
        "frozen": case,
        "ratio": ratio["median"],
        "low": ratio["low"],
        "high": ratio["high"],
        "of a plain step": whole["median"],
        "target": TARGET,
        "reached": common.reached(ratio["median"], TARGET),
    }


def check_rebuilt(grades):
    """What was timed is the rebuilt step, and not one before."""
    compilations = grades.report.timing["compilations"]
    if len(compilations) != 2 or compilations[1]["step"] > common.WARM_UP:
        raise RuntimeError(
            "The train step must be rebuilt once, in the first "
            f"{common.WARM_UP} steps. It was compiled so: {compilations}"
        )


def freeze_below_the_last_block(model):
    """By hand: every layer of the BERT up to its last block."""
    backbone = next(
        layer for layer in model.layers if hasattr(layer, "num_layers")
    )
    last = backbone.get_layer(f"transformer_layer_{backbone.num_layers - 1}")
    for layer in backbone.layers:
        if layer is last:
            break
        layer.trainable = False


if __name__ == "__main__":
    main()
