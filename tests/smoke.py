"""Trains with the package that is installed: it is whole, and needs no more.

python tests/smoke.py
"""

import pathlib
import sys

import keras
import numpy as np

import keras_grades


def main():
    place = pathlib.Path(keras_grades.__file__)
    assert "site-packages" in place.parts, place
    assert (place.parent / "py.typed").exists()
    x = y = keras.Input((6, 8))
    for _ in range(2):
        z = keras.layers.LayerNormalization()(y)
        y = y + keras.layers.MultiHeadAttention(2, 4)(z, z)
        z = keras.layers.LayerNormalization()(y)
        z = keras.layers.Dense(16, activation="relu")(z)
        y = y + keras.layers.Dense(8)(z)
    y = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(y))
    model = keras.Model(x, y)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((64, 6, 8)).astype("float32")
    labels = rng.integers(0, 2, 64)
    grades = keras_grades.GradES()
    model.fit(features, labels, 8, epochs=3, verbose=2, callbacks=[grades])
    print(grades.report.to_dict()["settings"])
    assert all(component.frozen_at for component in grades.components)
    # What draws and prints tables is an extra.
    assert "matplotlib" not in sys.modules


if __name__ == "__main__":
    main()
