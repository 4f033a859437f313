"""Trains as `test_agreement.py` asks and writes what GradES saw to a file."""

import sys

import keras
import numpy as np
import small

import keras_grades

EPOCHS = 2
BATCHES = 15
TAU = {"l1": 1.2, "mean_l1": 0.012, "l2": 0.2}


def train(monitor, norm):
    model = small.transformer()
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.05), small.loss())
    grades = keras_grades.GradES(
        TAU[norm], alpha=5, monitor=monitor, norm=norm, verbose=0
    )
    x, y = small.data(BATCHES)
    model.fit(
        x,
        y,
        batch_size=4,
        epochs=EPOCHS,
        shuffle=False,
        callbacks=[grades],
        verbose=0,
    )
    return {
        f"{monitor}/frozen_at": [c.frozen_at or 0 for c in grades.components],
        f"{monitor}/statistic": grades.trace["statistic"],
    }


if __name__ == "__main__":
    seen = {}
    seen |= train("gradient", "l1")
    seen |= train("gradient_change", "mean_l1")
    seen |= train("weight_change", "l2")
    np.savez(sys.argv[1], **seen)
