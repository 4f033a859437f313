"""The tasks of `tasks.py`: real data, a model, and its usual training."""

import dataclasses
from collections.abc import Callable

import common
import keras
import keras_hub
import numpy as np
from common import minilm_folder
from data import bbc_news
from data import mnist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEQUENCE = 64
# The most frequent characters, and one for all others.
VOCABULARY = 64


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and how.

    Attributes:
        load: Function of the number of examples to train on. It returns
            `(x, y)` three times: to train, to validate and to test on.
        build: Function that makes the model, with its first weights.
        examples: Integer, a multiple of the batch size: a batch of another
            size is compiled for itself.
        batch_size: Integer.
        epochs: Integer, of the full schedule.
        learning_rate: Float, at first; it decays to 0.
        decay: `"linear"`, `"cosine"`, `"steps"`, by ten at a half and at three
            quarters of the schedule, `"settle"`, linearly over the last fifth,
            or `"none"`.
        optimizer: Function of the learning rate.
        arrange: Function of `x`, `y` and the batch size that returns what
            `fit()` is given, or `None` for arrays that it shuffles.
    """

    load: Callable
    build: Callable
    examples: int
    batch_size: int
    epochs: int
    learning_rate: float
    decay: str
    optimizer: Callable = keras.optimizers.AdamW
    arrange: Callable | None = None

    @property
    def steps(self):
        """Of the full schedule."""
        return self.epochs * self.examples // self.batch_size

    def compiled(self):
        """The model, ready to train."""
        schedules = keras.optimizers.schedules
        first, steps = self.learning_rate, self.steps
        rate = {
            "linear": lambda: schedules.PolynomialDecay(first, steps, 0.0),
            "cosine": lambda: schedules.CosineDecay(first, steps),
            "steps": lambda: schedules.PiecewiseConstantDecay(
                [steps // 2, steps * 3 // 4], [first, first / 10, first / 100]
            ),
            "settle": lambda: Settle(first, steps),
            "none": lambda: first,
        }[self.decay]()
        model = self.build()
        model.compile(
            optimizer=self.optimizer(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    def quick(self, examples, epochs):
        """A small version, to see that everything works."""
        return dataclasses.replace(self, examples=examples, epochs=epochs)


@keras.saving.register_keras_serializable(package="benchmarks")
class Settle(keras.optimizers.schedules.LearningRateSchedule):
    """Constant, then linear to 0 over the last fifth of the steps."""

    def __init__(self, rate, steps):
        self.rate, self.steps = rate, steps

    def __call__(self, step):
        left = 1 - keras.ops.cast(step, "float32") / self.steps
        return self.rate * keras.ops.minimum(1.0, 5 * left)

    def get_config(self):
        return {"rate": self.rate, "steps": self.steps}


def some(split, n):
    """The first n examples, each part of them with its own array."""
    x, y = split
    if isinstance(x, dict):
        return {k: v[:n] for k, v in x.items()}, y[:n]
    return x[:n], y[:n]


def plain(model):
    """The same model, with a `fit()` that shuffles."""
    return keras.Model(model.inputs, model.outputs)


def load_topics(examples):
    """Articles of BBC News as tokens, and the index of the topic of each."""
    tokenize = keras_hub.models.TextClassifierPreprocessor.from_preset(
        minilm_folder(), sequence_length=SEQUENCE
    )

    def arrays(split):
        x, y = tokenize(split.texts, split.labels)
        return {k: np.asarray(v) for k, v in x.items()}, np.asarray(y)

    train, validation, test = map(arrays, bbc_news(examples))
    return train, some(validation, 256), test


def build_topics(lora_rank=None):
    """The pretrained 6-layer MiniLM."""
    model = common.minilm()
    if lora_rank:
        model.backbone.enable_lora(lora_rank)
    return plain(model)


def load_mnist(examples):
    """Images; 512 are to validate and 1000 to test on."""
    train, test = mnist()
    return *split(train, 512, examples), test


def load_small_digits(examples):
    """scikit-learn's images of 8 by 8; 256 to validate and 384 to test on."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype("float32")
    everything = images, digits.target.astype("int32")
    rest, test = split(everything, 384)
    return *split(rest, 256, examples), test


def split(pair, size, examples=None):
    """What is left without `size` of the examples, and these."""
    x, y = pair
    x, some_x, y, some_y = train_test_split(
        x, y, test_size=size, stratify=y, random_state=0
    )
    return (x[:examples], y[:examples]), (some_x, some_y)


def vit(image, patch, layers, width):
    """A small Vision Transformer with random weights."""
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(image, image, 1),
        patch_size=patch,
        num_layers=layers,
        num_heads=4,
        hidden_dim=width,
        mlp_dim=2 * width,
    )
    return keras_hub.models.ViTImageClassifier(
        backbone, num_classes=10, preprocessor=None
    )


def load_letters(examples):
    """Sequences of BBC News, and the same, one character later."""
    texts = [
        np.frombuffer(
            "\n".join(part.texts).encode("latin1", "replace"), "uint8"
        )
        for part in bbc_news(1280)
    ]
    known = np.argsort(-np.bincount(texts[0], minlength=256))
    index = np.zeros(256, "int32")
    index[known[: VOCABULARY - 1]] = np.arange(1, VOCABULARY)
    sizes = examples, 512, 1024
    return [sequences(index[text], n) for text, n in zip(texts, sizes)]


def sequences(letters, n):
    rng = np.random.default_rng(0)
    starts = SEQUENCE * np.arange((len(letters) - 1) // SEQUENCE)
    at = rng.permutation(starts)[:n, None] + np.arange(SEQUENCE)
    return letters[at], letters[at + 1]


def build_decoder():
    """A small decoder with random weights."""
    token_ids = keras.Input((SEQUENCE,), dtype="int32")
    embed = keras_hub.layers.TokenAndPositionEmbedding(
        VOCABULARY, SEQUENCE, embedding_dim=128
    )
    x = embed(token_ids)
    for _ in range(3):
        x = keras_hub.layers.TransformerDecoder(
            intermediate_dim=512,
            num_heads=4,
            activation="gelu",
            normalize_first=True,
        )(x)
    x = keras.layers.LayerNormalization()(x)
    return keras.Model(token_ids, keras.layers.Dense(VOCABULARY)(x))


TASKS = {
    "topics": Task(load_topics, build_topics, 960, 16, 6, 5e-5, "linear"),
    "topics, LoRA": Task(
        load_topics,
        lambda: build_topics(lora_rank=8),
        960,
        16,
        6,
        1e-3,
        "linear",
    ),
    "MNIST": Task(
        load_mnist,
        lambda: plain(vit(28, patch=7, layers=4, width=64)),
        3456,
        64,
        20,
        1e-3,
        "cosine",
    ),
    "small digits": Task(
        load_small_digits,
        lambda: plain(vit(8, patch=2, layers=3, width=32)),
        1120,
        32,
        40,
        2e-3,
        "cosine",
    ),
    "next letter": Task(
        load_letters, build_decoder, 2048, 32, 16, 2e-3, "cosine"
    ),
}
QUICK = {
    "topics": TASKS["topics"].quick(256, 3),
    "topics, LoRA": TASKS["topics, LoRA"].quick(256, 3),
    "MNIST": TASKS["MNIST"].quick(1024, 10),
    "small digits": TASKS["small digits"].quick(576, 20),
    "next letter": TASKS["next letter"].quick(256, 10),
}


def parse_arguments(description):
    """A parser for those that train the tasks."""
    parser = argument_parser(description)
    add = parser.add_argument
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    return parser


def argument_parser(description):
    """A parser for those that train any of them."""
    parser = common.argument_parser(description)
    add = parser.add_argument
    add("--quick", action="store_true", help="small tasks, the first seed")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser
