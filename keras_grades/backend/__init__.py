"""The few things that differ between TensorFlow, JAX and PyTorch."""

import keras

if keras.backend.backend() == "jax":
    from keras_grades.backend.jax import JaxBackend as _Backend
elif keras.backend.backend() == "tensorflow":
    from keras_grades.backend.tensorflow import TensorFlowBackend as _Backend
elif keras.backend.backend() == "torch":
    from keras_grades.backend.torch import TorchBackend as _Backend
else:
    raise ImportError(
        "keras_grades trains models, so it needs Keras on the 'jax', "
        "'tensorflow' or 'torch' backend. Received: "
        f"KERAS_BACKEND={keras.backend.backend()!r}. Set the environment "
        "variable before Keras is imported."
    )

__all__ = ["backend"]

backend = _Backend()
