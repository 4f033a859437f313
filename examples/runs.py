"""What the examples share: the arguments of GradES, shuffling, the report."""

import argparse
import json
import pathlib

import keras
import tensorflow as tf

import keras_grades


def argument_parser(description, name):
    """A parser with the arguments of every example.

    Args:
        description: String.
        name: String, of the folder in `runs/` for the report.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", help="of KerasHub: a name, or a folder")
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=16)
    add("--seed", type=int, default=0)
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs") / name,
        help="folder for report.json, report.png and report.html",
    )
    group = parser.add_argument_group("GradES")
    add = group.add_argument
    add(
        "--tau",
        type=_tau,
        default="auto",
        help="'auto', a threshold, or a dict, in JSON, from pattern to one",
    )
    # What is not given is what GradES has by default, which depends on tau.
    for name, kind, text in [
        ("alpha", _number, "grace period: a share of the schedule, or steps"),
        ("monitor", str, "what is measured; those of the paper need --tau"),
        ("patience", int, "measured steps in a row below tau, less one"),
    ]:
        add(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)
    add("--norm", default="mean_l1", help="how the size is measured")
    return parser


def _tau(text):
    return text if text == "auto" else json.loads(text)


def _number(text):
    return json.loads(text)


def grades(args):
    """The callback that the arguments ask for."""
    names = ("tau", "alpha", "monitor", "patience", "norm")
    given = {k: v for k, v in vars(args).items() if k in names}
    return keras_grades.GradES(**given, verbose=1)


def shuffled(data, args, drop_remainder=False):
    """Batches in another order in each epoch, the same for the same seed.

    `fit()` of KerasHub's models does not shuffle arrays.

    Args:
        data: Tuple of arrays, or of dicts of arrays, as `fit()` takes them.
        args: With `batch_size` and `seed`.
        drop_remainder: Boolean, whether to leave out what fills no batch.
            Defaults to `False`.
    """
    examples = tf.data.Dataset.from_tensor_slices(data)
    options = tf.data.Options()
    # Its thread can hold up the end of an epoch for ten seconds.
    options.autotune.enabled = False
    batches = examples.shuffle(len(examples), args.seed).batch(
        args.batch_size, drop_remainder
    )
    return batches.with_options(options)


def save(report, folder):
    """Writes the report of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    report.to_json(folder / "report.json")
    report.plot(folder / "report.png")
    report.to_html(folder / "report.html")
    print(f"Wrote report.json, report.png and report.html to {folder}.")


class EpochTable(keras.callbacks.Callback):
    """Prints a line an epoch that fits into a terminal, in place of `fit()`."""

    def on_train_begin(self, logs=None):
        print("epoch      loss  accuracy  statistic  frozen", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        line = f"{epoch + 1:5} {logs['loss']:9.4f} {logs['accuracy']:9.4f}"
        if "frozen_ratio" in logs:
            line += f" {logs['statistic']:10.4f} {logs['frozen_ratio']:7.0%}"
        print(line, flush=True)
