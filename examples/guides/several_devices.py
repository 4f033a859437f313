"""
Title: Several devices
Author: The keras_grades authors
Date created: 2026/11/28
Last modified: 2026/11/30
Description: Data and model parallel training with keras.distribution on JAX; TensorFlow, PyTorch.
Accelerator: None
"""

"""
## Introduction

GradES trains on several devices on each backend: on JAX with `keras.distribution`, on
TensorFlow with `tf.distribute`, on PyTorch with `DistributedDataParallel`. This guide runs
the first; the other two are at its end.

On JAX, `keras.distribution` spreads batches and matrices over several devices, and
GradES needs no change for it: it freezes the same matrices at the same steps as on
one device. What is frozen structurally leaves the backward pass, so its gradient is
not sent between the devices any more.

This guide makes four devices out of one CPU, so that it runs anywhere. Leave that
line out, and JAX takes the GPUs or TPUs that it finds.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

jax.config.update("jax_num_cpu_devices", 4)

import keras
import keras_hub
import numpy as np

import keras_grades

EPOCHS = 20
EXAMPLES = 1024
LENGTH = 16

print(keras.distribution.list_devices())

"""
## A task and a model

A small Llama learns to count: each token is the one before it, plus a step from 1 to
7 that differs from sequence to sequence. All batches have the same size, since the devices
share each evenly.
"""

rng = np.random.default_rng(0)
start = rng.integers(0, 96, (EXAMPLES, 1))
step = rng.integers(1, 8, (EXAMPLES, 1))
tokens = (start + step * np.arange(LENGTH + 1)) % 96
features = {
    "token_ids": tokens[:, :-1],
    "padding_mask": np.ones((EXAMPLES, LENGTH), "int32"),
}
targets = tokens[:, 1:]


def train(distribution):
    # Before the model: its variables are made where they belong.
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(0)
    model = keras_hub.models.LlamaCausalLM(
        keras_hub.models.LlamaBackbone(
            vocabulary_size=96,
            num_layers=2,
            num_query_heads=4,
            num_key_value_heads=2,
            hidden_dim=64,
            intermediate_dim=128,
        ),
        preprocessor=None,
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=None,
    )
    grades = keras_grades.GradES()
    model.fit(
        features,
        targets,
        32,
        epochs=EPOCHS,
        shuffle=False,
        verbose=2,
        callbacks=[grades],
    )
    return model, grades


"""
## Data parallel

Each device has all of the model, and a part of each batch. Gradients are summed over
the devices.
"""

model, data_parallel = train(keras.distribution.DataParallel())

"""
## Model parallel

Each device has a part of each matrix. A layout map says which axis of which variable
goes over which axis of the mesh; KerasHub has one for its large models. It matches
whole paths, so look whether it does what you think:
"""

mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
layout_map = keras_hub.models.LlamaBackbone.get_layout_map(mesh)
model, model_parallel = train(
    keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch"
    )
)
for component in keras_grades.find_components(model)[:7]:
    kernel = component.variables[0]
    print(component.name, kernel.shape, tuple(kernel.value.sharding.spec))

"""
No monitor gathers whole matrices: norms are summed where the parts are, and the
default compares samples of them.

## The same decisions
"""

for grades in (data_parallel, model_parallel):
    print([component.frozen_at for component in grades.components])

data_parallel.report

"""
Here what was learned helped to the end, so all settled by the plan, and the steps would
agree in any case. `tests/test_devices.py` compares runs in which matrices freeze at
steps of their own with those on one device.
"""

"""
## Several processes

With several processes start the script on each host, and call
`jax.distributed.initialize()` before anything else; Keras takes `tf.data` there, and
shards it. One process decides when the train step is rebuilt, for all.
`examples/finetune_on_several_devices.py` is a script to begin with:

```shell
python examples/finetune_on_several_devices.py --devices 4 --parallel model
```

## TensorFlow

Make and compile the model in the scope of a `MirroredStrategy`, and `fit()` as always, on
all GPUs that TensorFlow finds:

```python
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = make_model()
    model.compile("adamw", loss)
model.fit(x, y, epochs=8, callbacks=[keras_grades.GradES()])
```

```shell
KERAS_BACKEND=tensorflow python train.py
```

On several hosts, `MultiWorkerMirroredStrategy` needs a loop of your own, since Keras 3.15
cannot `fit()` there. Make the optimizer in the scope, too, and start the same script on
each host, with its own index:

```python
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = make_model()
    components = keras_grades.find_components(model)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.AdamW(1e-4),
        components,
        total_steps=1000,
        steps_per_epoch=100,
    )
    optimizer.build(model.trainable_variables)


def step(x, y):
    with tf.GradientTape() as tape:
        # Losses of Keras divide by the number of replicas.
        loss = loss_fn(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)


@tf.function
def train_step(x, y):
    strategy.run(step, args=(x, y))


for x, y in strategy.experimental_distribute_dataset(dataset):
    train_step(x, y)
    if optimizer.frozen_ratio == 1.0:
        break
```

```shell
TF_CONFIG='{"cluster": {"worker": ["host0:12345", "host1:12345"]},
    "task": {"type": "worker", "index": 0}}' KERAS_BACKEND=tensorflow python train.py
```

## PyTorch

From Keras 3.16 on `fit()` trains one model in all processes that `torch.distributed` knows.
Call `torch.distributed.init_process_group()` first, give each process its part of the data,
and pass `GradES()` as always. Before 3.16, write the loop, after `init_process_group()`:

```python
optimizer = keras_grades.GradESOptimizer(
    keras.optimizers.AdamW(1e-4),
    keras_grades.find_components(model),
    total_steps=1000,
    steps_per_epoch=100,
)
optimizer.build(model.trainable_variables)
replicas = DistributedDataParallel(model)
for step, (x, y) in enumerate(batches_of_this_process, start=1):
    replicas.zero_grad()
    loss_fn(y, replicas(x)).backward()
    variables = model.trainable_variables
    with torch.no_grad():
        optimizer.apply([v.value.grad for v in variables], variables)
    if step % 100 == 0 and optimizer.freeze_structurally():
        # It would wait for the gradients of what is frozen.
        replicas = DistributedDataParallel(model)
        if optimizer.frozen_ratio == 1.0:
            break
```

```shell
KERAS_BACKEND=torch torchrun --nproc-per-node 8 train.py
```

[What it works with](what_it_works_with.md) has a table of what is tested, and of what is
refused, and why.
"""
