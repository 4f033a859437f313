"""The few things that differ between TensorFlow, JAX and PyTorch.

Each backend's module has the same functions:

- `norms(tensors, norm)`: the norm of each of an iterable of tensors, in
  float32.
- `update_active(update, gradients, variables, frozen, share, zero)`: an
  optimizer's update that leaves alone what is frozen.
- `snapshot(variables)`: their values, which stay when these are assigned to.
- `with_frozen_ratio(train_step, model)`: the train step with one more log.
- `read(optimizer, model, output)`: the optimizer's state, on the host.
- `sync(model)`: brings the variables up to date in the middle of `fit()`.
- `guard_state(model, check_flags)`: has variables written back to where they
  came from, and flags checked before that could go wrong.
- `keep_state(model, arguments, output)`: saves the weights after an error.
- `no_step(logs, *arguments)`: what a train function returns that has done
  nothing.
- `check(model)`: refuses what cannot be done right.
- `compiles(model)`: whether to rebuild the train step costs a compilation.
- `max_rebuilds(model)`: how often it may be rebuilt in one `fit()`.
"""

import keras

if keras.backend.backend() == "jax":
    from keras_grades.backend.jax import check
    from keras_grades.backend.jax import compiles
    from keras_grades.backend.jax import guard_state
    from keras_grades.backend.jax import keep_state
    from keras_grades.backend.jax import max_rebuilds
    from keras_grades.backend.jax import no_step
    from keras_grades.backend.jax import norms
    from keras_grades.backend.jax import read
    from keras_grades.backend.jax import snapshot
    from keras_grades.backend.jax import sync
    from keras_grades.backend.jax import update_active
    from keras_grades.backend.jax import with_frozen_ratio
elif keras.backend.backend() == "tensorflow":
    from keras_grades.backend.tensorflow import check
    from keras_grades.backend.tensorflow import compiles
    from keras_grades.backend.tensorflow import guard_state
    from keras_grades.backend.tensorflow import keep_state
    from keras_grades.backend.tensorflow import max_rebuilds
    from keras_grades.backend.tensorflow import no_step
    from keras_grades.backend.tensorflow import norms
    from keras_grades.backend.tensorflow import read
    from keras_grades.backend.tensorflow import snapshot
    from keras_grades.backend.tensorflow import sync
    from keras_grades.backend.tensorflow import update_active
    from keras_grades.backend.tensorflow import with_frozen_ratio
elif keras.backend.backend() == "torch":
    from keras_grades.backend.torch import check
    from keras_grades.backend.torch import compiles
    from keras_grades.backend.torch import guard_state
    from keras_grades.backend.torch import keep_state
    from keras_grades.backend.torch import max_rebuilds
    from keras_grades.backend.torch import no_step
    from keras_grades.backend.torch import norms
    from keras_grades.backend.torch import read
    from keras_grades.backend.torch import snapshot
    from keras_grades.backend.torch import sync
    from keras_grades.backend.torch import update_active
    from keras_grades.backend.torch import with_frozen_ratio
else:
    raise ImportError(
        "keras_grades trains models, so it needs Keras on the 'jax', "
        "'tensorflow' or 'torch' backend. Received: "
        f"KERAS_BACKEND={keras.backend.backend()!r}. Set the environment "
        "variable before Keras is imported."
    )

__all__ = [
    "check",
    "compiles",
    "guard_state",
    "keep_state",
    "max_rebuilds",
    "no_step",
    "norms",
    "read",
    "snapshot",
    "sync",
    "update_active",
    "with_frozen_ratio",
]
