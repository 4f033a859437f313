"""A process that has never heard of keras_grades, and loads models.

    python tests/elsewhere.py

reads lines from its input, each the path of a saved model and that of a file
for what came of it, and writes a line when that is there. It trains for an
epoch, too.
"""

import subprocess
import sys

import numpy as np


class Elsewhere:
    """Such a process, to be asked from tests. It starts with the first."""

    def __init__(self):
        self._process = None

    def load(self, path, result):
        """Dict of `prediction`, as it was loaded, and which weights moved."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._process.stdin.write(f"{path} {result}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer == "done\n", "The process has ended."
        return dict(np.load(result))

    def end(self):
        if self._process is not None:
            self._process.communicate()


def load(path):
    """Loads a model, and trains it."""
    import keras
    import small

    x, y = small.data(3)
    model = keras.saving.load_model(path)
    if path.endswith(".h5"):
        # Keras builds the optimizer in it for no variables.
        made, config = type(model.optimizer), model.optimizer.get_config()
        model.compile(
            made.from_config(config),
            small.loss(),
            run_eagerly=model.run_eagerly,
        )
    prediction = keras.ops.convert_to_numpy(model(x))
    before = small.weights(model)
    model.fit(x, y, 4, shuffle=False, verbose=0)
    has_moved = [
        (value != weight).any()
        for value, weight in zip(before, small.weights(model))
    ]
    assert "keras_grades" not in sys.modules
    paths = [v.path for v in model.weights]
    return {
        "prediction": prediction,
        "moved": [p for p, moved in zip(paths, has_moved) if moved],
    }


if __name__ == "__main__":
    for line in sys.stdin:
        path, result = line.split()
        np.savez(result, **load(path))
        print("done", flush=True)
