"""Fine-tunes a pretrained BERT with GradES to tell five topics of news apart.

    python examples/finetune_text_classifier.py
    python examples/finetune_text_classifier.py --compare

The model is all-MiniLM-L6-v2, trained as KerasHub compiles it: with Adam, at
a constant learning rate. The articles are BBC News. Both come out of
installed packages. `--preset` takes any other text model of KerasHub, and
`KERAS_BACKEND` any backend (JAX if it is not set).
"""

import quiet  # noqa: F401

# isort: split

import time
from typing import NamedTuple

import keras
import keras_hub
import runs
from data import BBC_TOPICS
from data import bbc_news
from data import minilm_folder

LEARNING_RATE = 5e-5


class Outcome(NamedTuple):
    """What a run took, and what it came to."""

    seconds: float
    steps: int
    accuracy: float


def main(argv=None):
    args = parse_arguments(argv)
    splits = load_splits(args)
    grades = runs.grades(args)
    outcomes = {"GradES": finetune(args, splits, [grades])}
    print(f"\n{grades.report.summary()}\n")
    runs.save(grades.report, args.output)
    if args.compare:
        outcomes |= finetune_without(args, splits)
    print_outcomes(outcomes)
    if not args.compare:
        print_what_was_left(grades.report)


def parse_arguments(argv):
    parser = runs.argument_parser(
        "Fine-tune a text classifier on BBC News with GradES.",
        "text_classifier",
    )
    parser.set_defaults(epochs=8)
    add = parser.add_argument
    add("--sequence-length", type=int, default=64, help="in tokens")
    add("--examples", type=int, default=640, help="articles to train on")
    add(
        "--compare",
        action="store_true",
        help="also run plain fit(), and fit() with EarlyStopping",
    )
    return parser.parse_args(argv)


def load_splits(args):
    """Tokenizes once, up front, so that only training is timed."""
    tokenize = keras_hub.models.TextClassifierPreprocessor.from_preset(
        args.preset or minilm_folder(), sequence_length=args.sequence_length
    )
    splits = bbc_news(args.examples, args.seed)
    sizes = ", ".join(str(len(split.labels)) for split in splits)
    print(
        f"Backend: {keras.backend.backend()}. Articles to train, validate "
        f"and test on: {sizes}.",
        flush=True,
    )
    return [tokenize(split.texts, split.labels) for split in splits]


def finetune(args, splits, callbacks=(), **fit_options):
    """Runs `fit()` on a fresh model, the same one for the same seed."""
    train, _, test = splits
    keras.utils.set_random_seed(args.seed)
    model = keras_hub.models.TextClassifier.from_preset(
        args.preset or minilm_folder(),
        num_classes=len(BBC_TOPICS),
        preprocessor=None,
    )
    model.compile(
        # As KerasHub compiles it.
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    model.fit(
        runs.shuffled(train, args),
        epochs=args.epochs,
        shuffle=False,
        callbacks=[*callbacks, runs.EpochTable()],
        verbose=0,
        **fit_options,
    )
    seconds = time.perf_counter() - start
    results = model.evaluate(
        runs.shuffled(test, args), verbose=0, return_dict=True
    )
    steps = int(model.optimizer.iterations)
    return Outcome(seconds, steps, results["accuracy"])


def finetune_without(args, splits):
    """Runs the alternatives to GradES: the whole plan, and early stopping."""
    early_stopping = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=3, restore_best_weights=True
    )
    print("\nPlain fit():", flush=True)
    plain = finetune(args, splits)
    print("\nfit() with EarlyStopping, patience 3:", flush=True)
    stopped = finetune(
        args, splits, [early_stopping], validation_data=splits[1]
    )
    return {"plain fit()": plain, "EarlyStopping": stopped}


def print_outcomes(outcomes):
    print("\n                     time   steps   test accuracy")
    for name, outcome in outcomes.items():
        print(
            f"{name:15} {outcome.seconds:7.1f} s {outcome.steps:7} "
            f"{outcome.accuracy:15.4f}"
        )
    print("The time is that of fit(), compilation included.")


def print_what_was_left(report):
    """What plain `fit()` would still have to do; the report has the time."""
    left = report.total_steps - report.steps
    print(
        f"Plain fit() would go on for {left} steps: --compare runs it, and "
        "EarlyStopping."
    )


if __name__ == "__main__":
    main()
