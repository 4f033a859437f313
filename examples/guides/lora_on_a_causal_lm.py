"""
Title: LoRA on a causal language model
Author: The keras_grades authors
Date created: 2026/11/28
Last modified: 2026/11/29
Description: With LoRA, GradES watches pairs of small matrices.
Accelerator: None
"""

"""
## Introduction

With LoRA the large kernels of a model are fixed, and next to each a pair of small
matrices A and B is trained. GradES takes such a pair as one component: A and B freeze
at the same step.

The language model of this guide is a small Llama that reads bytes, so that the guide
runs anywhere. It learns to write from BBC News, except for the articles on sports;
then LoRA adapts it to those. With a network, begin with
`keras_hub.models.CausalLM.from_preset(...)` instead, and skip the first training.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys

import keras
import keras_hub
import numpy as np
import tensorflow as tf

import keras_grades

sys.path += ["..", "examples"]  # From this folder, or from the root.
from data import read_bbc_news
from data import topics

SEQUENCES = 960
LENGTH = 64
BATCH_SIZE = 16
EPOCHS = 8

keras.utils.set_random_seed(0)

"""
## Bytes in, the next byte out
"""

articles = topics(*read_bbc_news())
sports = articles.pop("sports")
others = [text for texts in articles.values() for text in texts]


def sequences(texts, count):
    stream = np.frombuffer("\0".join(texts).encode(), "uint8")
    stream = stream[: count * LENGTH + 1].astype("int32")
    tokens = {
        "token_ids": stream[:-1].reshape(-1, LENGTH),
        "padding_mask": np.ones((count, LENGTH), "int32"),
    }
    return tokens, stream[1:].reshape(-1, LENGTH)


def batches(texts, count):
    data = tf.data.Dataset.from_tensor_slices(sequences(texts, count))
    return data.shuffle(count, seed=0).batch(BATCH_SIZE)


"""
## A model that has something to adapt
"""

model = keras_hub.models.LlamaCausalLM(
    keras_hub.models.LlamaBackbone(
        vocabulary_size=256,
        num_layers=4,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=128,
        intermediate_dim=384,
    ),
    preprocessor=None,
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.AdamW(3e-3), loss)
history = model.fit(
    batches(others, SEQUENCES), epochs=3, shuffle=False, verbose=2
)

"""
## LoRA

`enable_lora` fixes the kernels, and adds a pair to the queries and the values. What
is not trainable is not watched, so these pairs are all that GradES finds.
"""

model.backbone.enable_lora(rank=8)
model.compile(keras.optimizers.AdamW(1e-3), loss)
for component in keras_grades.find_components(model):
    print(component.name, [v.path.split("/")[-1] for v in component.variables])

"""
## Adapt it

The first fifth of the articles is held out.
"""

held_out = sequences(sports[: len(sports) // 5], SEQUENCES // 4)
training = batches(sports[len(sports) // 5 :], SEQUENCES)
before = model.evaluate(*held_out, verbose=0, return_dict=True)["loss"]

grades = keras_grades.GradES()
history = model.fit(
    training, epochs=EPOCHS, callbacks=[grades], shuffle=False, verbose=2
)

after = model.evaluate(*held_out, verbose=0, return_dict=True)["loss"]
print(f"loss a byte on held-out articles: {before:.3f} -> {after:.3f}")

"""
B begins at zero, so a pair has gone far in no time, by its own measure. GradES
therefore takes every pair as fine-tuned, and compares over half an epoch. In this run what
was learned helped to the end: all settled by the plan, and no time was saved. That is
as it should be: `epochs` was too small.
"""

grades.report

"""
QLoRA works alike: call `model.backbone.quantize("int8")` before `enable_lora`.
"""
