"""`gpu.py` on JAX."""

import tempfile

import devices_jax
import jax

# What was compiled to be timed is not compiled again to be measured.
_cache = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def wait(model):
    """For the device to end what it was given.

    Args:
        model: `keras.Model`, in `fit()`.
    """
    jax.block_until_ready(model._jax_state)


def peak(fit):
    """The bytes that the step that `fit` compiles last needs at its peak.

    What JAX has allocated cannot be told apart from what other models have:
    this is what the compiler says.
    """
    with devices_jax.compiled_steps() as steps:
        fit()
    memory = steps[-1].memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
