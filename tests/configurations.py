"""Every way to train that GradES is held against a plain loop for.

`test_configurations.py` trains as each says, and `support_table.py` writes
the table of support from them.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import small
from keras import optimizers

STEPS = 10
BATCH = 4
# Of two batches each, where something happens between epochs.
EPOCHS = 5


def arrays(**arguments):
    """Arrays in order, and what functions of them make of further arguments."""

    def fit(x, y):
        return {
            "x": x,
            "y": y,
            "batch_size": BATCH,
            "shuffle": False,
            **{k: v(x, y) for k, v in arguments.items()},
        }

    return fit


@dataclasses.dataclass
class Configuration:
    """One way to train, and how the plain loop says the same.

    Attributes:
        name: What the table calls it.
        optimizer: Function that makes the optimizer.
        plain_optimizer: The one of the plain loop, where it is another.
        model: Function that makes the model.
        loss: Function that makes the loss that the plain loop takes
            gradients of.
        compile: Arguments of `compile()`, beside optimizer and loss.
        fit: Function from the data, `(x, y)`, to the arguments of `fit()`.
        callbacks: Function of a folder, which makes further callbacks.
        epochs: Integer, the epochs that the steps make up.
        ends_after: Integer, the epochs after which another callback ends
            training, or `None`.
        weights: Function from `y` to the sample weights of the plain loop.
        reference: Further arguments of the plain loop.
        unsupported: Dict from a backend to why it cannot be.
        tolerance: Of the final weights.
    """

    name: str
    optimizer: Callable = lambda: optimizers.Adam(0.01)
    plain_optimizer: Callable | None = None
    model: Callable = functools.partial(small.transformer, blocks=1)
    loss: Callable = small.loss
    compile: dict = dataclasses.field(default_factory=dict)
    fit: Callable = arrays()
    callbacks: Callable = lambda folder: []
    epochs: int = 1
    ends_after: int | None = None
    weights: Callable | None = None
    reference: dict = dataclasses.field(default_factory=dict)
    unsupported: dict = dataclasses.field(default_factory=dict)
    tolerance: float = 2e-5

    def __str__(self):
        return self.name.replace(" ", "_")


# Optimizers


def multi_optimizer():
    return optimizers.MultiOptimizer(
        optimizers.OptimizerMap(
            optimizers.SGD(0.05, momentum=0.9),
            {".*attention.*": optimizers.Adam(0.01)},
        )
    )


def some_averaged():
    return optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.SGD(0.05), {".*attention.*": ema()})
    )


def excluding_decay():
    optimizer = optimizers.AdamW(0.01, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_names=["bias", "query"])
    return optimizer


def decaying_rate():
    return optimizers.SGD(
        optimizers.schedules.CosineDecay(0.05, STEPS), momentum=0.9
    )


def ema(**arguments):
    return optimizers.Adam(0.01, use_ema=True, ema_momentum=0.8, **arguments)


OPTIMIZERS = [
    Configuration("SGD", lambda: optimizers.SGD(0.05)),
    Configuration(
        "SGD with momentum", lambda: optimizers.SGD(0.05, momentum=0.9)
    ),
    Configuration(
        "SGD with Nesterov momentum",
        lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    ),
    Configuration("Adam", lambda: optimizers.Adam(0.01)),
    Configuration(
        "Adam with AMSGrad", lambda: optimizers.Adam(0.01, amsgrad=True)
    ),
    Configuration("AdamW", lambda: optimizers.AdamW(0.01, weight_decay=0.2)),
    Configuration("AdamW, some without decay", excluding_decay),
    Configuration("Adamax", lambda: optimizers.Adamax(0.01)),
    Configuration("Nadam", lambda: optimizers.Nadam(0.01)),
    Configuration("Adagrad", lambda: optimizers.Adagrad(0.05)),
    Configuration("Adadelta", lambda: optimizers.Adadelta(1.0)),
    Configuration("RMSprop", lambda: optimizers.RMSprop(0.01, momentum=0.5)),
    Configuration("Lion", lambda: optimizers.Lion(0.003)),
    Configuration("Lamb", lambda: optimizers.Lamb(0.01)),
    Configuration("Ftrl", lambda: optimizers.Ftrl(0.05)),
    Configuration("Adafactor", lambda: optimizers.Adafactor(0.01)),
    Configuration("Muon", lambda: optimizers.Muon(0.01), tolerance=1e-3),
    Configuration(
        "ScheduleFreeAdamW", lambda: optimizers.ScheduleFreeAdamW(0.01)
    ),
    Configuration(
        "MultiOptimizer", multi_optimizer, reference={"zeroed": True}
    ),
    Configuration(
        "LossScaleOptimizer",
        lambda: optimizers.LossScaleOptimizer(
            optimizers.Adam(0.01), initial_scale=64.0
        ),
        lambda: optimizers.Adam(0.01),
    ),
    Configuration("clipnorm", lambda: optimizers.Adam(0.01, clipnorm=0.05)),
    Configuration("clipvalue", lambda: optimizers.Adam(0.01, clipvalue=0.01)),
    Configuration(
        "global_clipnorm", lambda: optimizers.SGD(0.05, global_clipnorm=0.1)
    ),
    Configuration("use_ema", ema, reference={"zeroed": True}),
    Configuration(
        "use_ema, overwriting every 3 steps",
        lambda: ema(ema_overwrite_frequency=3),
        reference={"zeroed": True},
    ),
    Configuration("learning-rate schedule", decaying_rate),
    Configuration(
        "gradient_accumulation_steps",
        lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2),
        lambda: optimizers.Adam(0.01),
        reference={"accumulate": 2},
    ),
]


# What fit() is given


def tf_data(x, y):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)}


def torch_loader(x, y):
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return {"x": torch.utils.data.DataLoader(data, batch_size=BATCH)}


def py_dataset(x, y):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return STEPS

        def __getitem__(self, i):
            return small.batches(x, y, BATCH)[i]

    return {"x": Batches(), "shuffle": False}


def grain_data(x, y):
    import grain

    examples = grain.MapDataset.source(list(zip(x, y)))
    return {"x": examples.batch(BATCH)}


def endless_generator(x, y):
    def generate():
        while True:
            yield from small.batches(x, y, BATCH)

    return {"x": generate(), "steps_per_epoch": STEPS}


def sample_weights(y):
    return np.linspace(0.5, 2.0, len(y)).astype("float32")


CLASS_WEIGHTS = {0: 0.5, 1: 1.0, 2: 3.0}


def class_weights(y):
    return np.array([CLASS_WEIGHTS[int(k)] for k in y], "float32")


FIT = [
    Configuration("run_eagerly", compile={"run_eagerly": True}),
    Configuration("jit_compile=True", compile={"jit_compile": True}),
    Configuration("jit_compile=False", compile={"jit_compile": False}),
    Configuration(
        "steps_per_execution",
        compile={"steps_per_execution": 5},
        unsupported={"torch": "no: Keras allows 1 only"},
    ),
    Configuration(
        "sample weights",
        fit=arrays(sample_weight=lambda x, y: sample_weights(y)),
        weights=sample_weights,
    ),
    Configuration(
        "class weights",
        fit=arrays(class_weight=lambda x, y: CLASS_WEIGHTS),
        weights=class_weights,
    ),
    Configuration(
        "validation data",
        fit=arrays(validation_data=lambda x, y: (x[:8], y[:8])),
    ),
    Configuration("tf.data", fit=tf_data),
    Configuration("torch DataLoader", fit=torch_loader),
    Configuration("PyDataset", fit=py_dataset),
    Configuration("grain", fit=grain_data),
    Configuration("endless generator", fit=endless_generator),
]


# Callbacks beside it


def rate_of_step(step):
    return 0.02 / (1 + step)


def rate_of_epoch(epoch):
    return 0.01 / (1 + epoch)


def set_rate(step, optimizer):
    optimizer.learning_rate = rate_of_step(step - 1)


def set_rate_of_epoch(step, optimizer):
    optimizer.learning_rate = rate_of_epoch((step - 1) // (STEPS // EPOCHS))


def cut_rate(step, optimizer):
    """After the first epoch the loss never improves by that much."""
    epoch = (step - 1) // (STEPS // EPOCHS)
    optimizer.learning_rate = 0.01 * 0.5 ** max(0, epoch - 1)


class RateByStep(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = rate_of_step(batch)


def callbacks(make, name, **arguments):
    return Configuration(name, callbacks=make, **arguments)


def swapping_averages(name, **arguments):
    return callbacks(
        lambda folder: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
        name,
        epochs=EPOCHS,
        reference={"zeroed": True},
        **arguments,
    )


CALLBACKS = [
    callbacks(
        lambda folder: [
            keras.callbacks.EarlyStopping(
                monitor="loss", min_delta=1e9, patience=3
            )
        ],
        "EarlyStopping",
        epochs=EPOCHS,
        ends_after=4,
    ),
    callbacks(
        lambda folder: [
            keras.callbacks.ReduceLROnPlateau(
                monitor="loss", min_delta=1e9, patience=1, factor=0.5
            )
        ],
        "ReduceLROnPlateau",
        epochs=EPOCHS,
        reference={"before_step": cut_rate},
    ),
    callbacks(
        lambda folder: [keras.callbacks.LearningRateScheduler(rate_of_epoch)],
        "LearningRateScheduler",
        epochs=EPOCHS,
        reference={"before_step": set_rate_of_epoch},
    ),
    callbacks(
        lambda folder: [RateByStep()],
        "a learning rate set at each step",
        reference={"before_step": set_rate},
    ),
    callbacks(
        lambda folder: [
            keras.callbacks.ModelCheckpoint(folder / "model.keras"),
            keras.callbacks.ModelCheckpoint(
                folder / "model.weights.h5", save_weights_only=True, save_freq=3
            ),
        ],
        "ModelCheckpoint",
    ),
    callbacks(
        lambda folder: [keras.callbacks.BackupAndRestore(folder / "backup")],
        "BackupAndRestore",
        epochs=EPOCHS,
    ),
    callbacks(
        lambda folder: [keras.callbacks.CSVLogger(folder / "log.csv")],
        "CSVLogger",
    ),
    callbacks(
        lambda folder: [keras.callbacks.TensorBoard(folder / "board")],
        "TensorBoard",
    ),
    swapping_averages(
        "SwapEMAWeights",
        optimizer=ema,
        fit=arrays(validation_data=lambda x, y: (x[:8], y[:8])),
    ),
    swapping_averages(
        "SwapEMAWeights inside loss scaling",
        optimizer=lambda: optimizers.LossScaleOptimizer(ema()),
        plain_optimizer=ema,
    ),
    swapping_averages(
        "SwapEMAWeights, MultiOptimizer inside loss scaling",
        optimizer=lambda: optimizers.LossScaleOptimizer(some_averaged()),
        plain_optimizer=some_averaged,
    ),
    callbacks(
        lambda folder: [
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: float(logs["loss"])
            ),
            keras.callbacks.TerminateOnNaN(),
        ],
        "LambdaCallback, TerminateOnNaN",
    ),
]


# Models


def with_state():
    """Moving averages, and dropout from a seed."""
    inner = small.transformer()
    inputs = keras.Input((small.LENGTH, small.WIDTH))
    x = keras.layers.BatchNormalization()(inputs)
    x = keras.layers.Dropout(0.2, seed=3)(x)
    model = keras.Model(inputs, inner(x))
    small.set_weights(model)
    return model


def with_constraints():
    inputs = keras.Input((small.LENGTH, small.WIDTH))
    x = keras.layers.MultiHeadAttention(
        2, 4, use_bias=False, kernel_constraint="unit_norm", name="attention"
    )(inputs, inputs)
    x = keras.layers.Add()([x, inputs])
    y = keras.layers.LayerNormalization()(x)
    y = keras.layers.Dense(
        16, "relu", kernel_constraint=keras.constraints.MaxNorm(0.4), name="up"
    )(y)
    y = keras.layers.Dense(small.WIDTH, name="down")(y)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(small.CLASSES)(x))
    small.set_weights(model)
    return model


class OwnTrainStep(keras.Model):
    """Hands everything to Keras, but by a method of its own."""

    def train_step(self, *args):
        return super().train_step(*args)


class OwnLoss(keras.Model):
    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return 2.0 * super().compute_loss(x, y, y_pred, sample_weight, training)


def subclass(kind):
    def make():
        plain = small.transformer()
        return kind(plain.inputs, plain.outputs)

    return make


def doubled_loss():
    loss = small.loss()
    return lambda y, y_pred, sample_weight=None: (
        2.0 * loss(y, y_pred, sample_weight)
    )


def two_outputs():
    inner = small.transformer()
    hidden = inner.layers[-2].output
    second = keras.layers.Dense(small.CLASSES, name="second")(hidden)
    model = keras.Model(inner.inputs, [inner.output, second])
    small.set_weights(model)
    return model


def loss_of_both():
    loss = small.loss()
    return lambda y, y_pred, sample_weight=None: (
        loss(y, y_pred[0]) + loss(y, y_pred[1])
    )


def partly_frozen():
    model = small.transformer()
    model.get_layer("block_1_attention").trainable = False
    model.get_layer("block_0_up").kernel.trainable = False
    return model


def with_unused_weights():
    """A kernel that no output depends on has no gradient."""

    class Unused(keras.layers.Layer):
        def build(self, shape):
            self.unused = self.add_weight(shape=(3, 3), name="unused")

        def call(self, x):
            return x

    inner = small.transformer()
    model = keras.Model(inner.inputs, Unused()(inner.output))
    small.set_weights(model)
    return model


MODELS = [
    Configuration("BatchNormalization, Dropout", model=with_state),
    Configuration("constraints on kernels", model=with_constraints),
    Configuration("a train_step of its own", model=subclass(OwnTrainStep)),
    Configuration(
        "a compute_loss of its own", model=subclass(OwnLoss), loss=doubled_loss
    ),
    Configuration(
        "several outputs and losses",
        model=two_outputs,
        loss=loss_of_both,
        fit=lambda x, y: {**arrays()(x, y), "y": [y, y]},
        compile={"loss": [small.loss(), small.loss()]},
    ),
    Configuration("weights without a gradient", model=with_unused_weights),
    Configuration("partly frozen by the user", model=partly_frozen),
]

GROUPS = {
    "Optimizers": OPTIMIZERS,
    "fit()": FIT,
    "Callbacks": CALLBACKS,
    "Models": MODELS,
}
ALL = [configuration for group in GROUPS.values() for configuration in group]
