"""
Title: Fine-tune a classifier until nothing more is learned
Author: The keras_grades authors
Date created: 2026/11/28
Last modified: 2026/11/30
Description: GradES on a pretrained BERT: watch it settle, and read its report.
Accelerator: None
"""

"""
## Introduction

How many epochs does a model need? Most people guess, train for that long, and keep
the learning rate that the preset came with. `GradES` answers while the model trains:
it asks whether what is learned on some examples still helps on the next ones. When it
no longer does, the learning rate falls to zero, block after block is frozen from
below, and `fit()` stops. You need no validation data, no schedule and no threshold.

This guide fine-tunes MiniLM, a BERT of six layers, to tell five topics of BBC News
apart. Both come out of packages, so that it runs without a network: `data.py` reads
them. With a network, use any preset of KerasHub by its name.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys

import keras
import keras_hub
import tensorflow as tf

import keras_grades

sys.path += ["..", "examples"]  # From this folder, or from the root.
from data import BBC_TOPICS
from data import bbc_news
from data import minilm_folder

EXAMPLES = 640
EPOCHS = 8
BATCH_SIZE = 16
SEQUENCE_LENGTH = 64

keras.utils.set_random_seed(0)

"""
## The data

`fit()` of a KerasHub model does not shuffle arrays, so we let `tf.data` do it. The
model tokenizes the texts itself.
"""

train, _, test = bbc_news(EXAMPLES)
articles = tf.data.Dataset.from_tensor_slices((train.texts, train.labels))
articles = articles.shuffle(EXAMPLES, seed=0).batch(BATCH_SIZE)
print(train.texts[0][:70], "->", BBC_TOPICS[train.labels[0]])

"""
## The model, as KerasHub compiles it

A preset comes compiled: Adam at a constant learning rate of 5e-5, a loss and a
metric. Nothing needs to be changed for GradES.
"""

classifier = keras_hub.models.TextClassifier.from_preset(
    minilm_folder(), num_classes=len(BBC_TOPICS)
)
classifier.preprocessor.sequence_length = SEQUENCE_LENGTH

"""
GradES watches the projection matrices of attention and of the feed-forward networks.
Here are those that it finds in the first block:
"""

for component in keras_grades.find_components(classifier)[:6]:
    print(component.name, component.role, component.shape)

"""
## Train, and watch it settle

`EPOCHS` is the most that we would spend. Two numbers are new in the logs:
`statistic`, which says how much of what was learned still helps (0 until it is
known), and `frozen_ratio`, the share of the matrices that are frozen. They are in the
progress bar, in `History`, and in whatever logger you use.
"""

grades = keras_grades.GradES()
history = classifier.fit(
    articles, epochs=EPOCHS, callbacks=[grades], shuffle=False, verbose=2
)

"""
`fit()` has said when it began to settle, and at which step it would stop. It never
trains for longer than planned: if what is learned helps until the end, it settles in
the last fifth of the plan, as with a learning-rate schedule.
"""

for epoch, (statistic, ratio) in enumerate(
    zip(history.history["statistic"], history.history["frozen_ratio"]), 1
):
    print(f"epoch {epoch}: statistic {statistic:.4f}, frozen {ratio:.0%}")

"""
## Read the report

`summary()` is for the terminal: the step at which each matrix froze. `to_html()`
writes a page that opens in any browser, with values to hover over, and `plot()` a
picture for a paper. In a notebook, the report shows itself.
"""

print(grades.report.summary())

"""
"""

grades.report

"""
## Was it worth it?

Evaluate on data that neither the training nor GradES has seen. To train with plain `fit()`
and with `EarlyStopping` beside it, run `examples/finetune_text_classifier.py --compare`.
"""

results = classifier.evaluate(
    test.texts, test.labels, batch_size=64, verbose=0, return_dict=True
)
print(f"steps: {grades.report.steps} of {grades.report.total_steps}")
print({name: round(value, 4) for name, value in results.items()})

"""
The model has its own optimizer back, and all `trainable` flags are as they were: save
it, go on with it, or fine-tune it on something else.

## What to remember

- `GradES()` is all you need, at a constant learning rate and with a schedule.
- Plan generously: six epochs or more, from scratch ten, and more where an epoch has fewer than
  30 steps. `epochs` is a limit, not a duty. The first line that GradES prints says before which
  step nothing freezes.
- Plan all epochs in one call of `fit()`, so that GradES knows where it ends.
- No validation data is needed, so all of yours can be trained on.
"""
