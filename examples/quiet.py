"""To be imported first: JAX by default, and no word of missing GPUs.

TensorFlow, which tokenizes on every backend, writes it when it is imported,
whatever its log level.
"""

import os
import sys
import tempfile

NOISE = (
    b"absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"Could not find cuda drivers",
)

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _import():
    import tensorflow  # noqa: F401
    import tensorflow_text  # noqa: F401


def _without_noise(function):
    """Calls a function, and leaves out lines that native code writes."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            function()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if not any(words in line for words in NOISE):
                    sys.stderr.write(line.decode(errors="replace"))


_without_noise(_import)
