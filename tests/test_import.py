"""What `import keras_grades` brings along."""

import os
import subprocess
import sys

import keras
import pytest
from markers import long_on

BACKENDS = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}


def test_imports_nothing_that_keras_has_not_chosen():
    """Compared with `import keras` alone, in a process of its own."""
    others = [m for b, m in BACKENDS.items() if b != keras.backend.backend()]
    unwanted = [*others, "bokeh", "keras_hub", "matplotlib", "rich"]
    # Keras itself imports rich, so that is forgotten first.
    code = f"""
import sys, keras
for name in list(sys.modules):
    if name.split(".")[0] == "rich":
        del sys.modules[name]
before = set(sys.modules)
import keras_grades, keras_grades.report
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
bad = new & set({unwanted!r})
sys.exit(str(bad) if bad else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@long_on("jax", "tensorflow")
def test_refuses_other_backends():
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    done = subprocess.run(
        [sys.executable, "-c", "import keras_grades"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "ImportError: keras_grades trains models" in done.stderr
    assert "'numpy'" in done.stderr


def test_public_names():
    import keras_grades

    for name in keras_grades.__all__:
        assert hasattr(keras_grades, name)
    with pytest.raises(AttributeError):
        _ = keras_grades.no_such_name
