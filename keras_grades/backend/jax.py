"""JAX: the step is a pure function, and XLA fuses what is written plainly."""

import concurrent.futures
import itertools

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_grades.backend.base import Backend
from keras_grades.keras_internals import jax_state


class JaxBackend(Backend):
    trains_with_others = False
    # The last is that of KerasHub's language models.
    traced = ("test_function", "predict_function", "generate_function")

    def norms(self, tensors, norm):
        tensors = (jnp.asarray(t, "float32") for t in tensors)
        if norm == "l2":
            squares = (jnp.sum(jnp.square(t)) for t in tensors)
            return jnp.stack([jnp.sqrt(s) for s in squares])
        return jnp.stack([jnp.sum(jnp.abs(t)) for t in tensors])

    def scalars(self, tensor):
        """As reductions, which XLA does not fuse with what comes after them.

        An entry taken by its place is: then the updates of two variables
        differ in that place, and XLA, which compiles what is alike once,
        compiles each of them.

        Args:
            tensor: Boolean or float tensor of shape `(k,)`, not negative.
        """
        rows, zero = np.eye(len(tensor), dtype=bool), tensor.dtype.type(0)
        return [jnp.max(jnp.where(row, tensor, zero)) for row in rows]

    def snapshot(self, variables):
        """No copies: no array ever changes."""
        return [v.value for v in variables]

    def everywhere(self, tensor):
        """The tensor, as a whole on each device that takes part in a step.

        Where samples of matrices are put together, XLA may decide to lay out
        the matrices anew. So it is told to gather the samples.
        """
        distribution = keras.distribution.distribution()
        if distribution is None:
            return tensor
        layout = keras.distribution.TensorLayout(
            [None] * tensor.ndim, distribution.device_mesh
        )
        return keras.distribution.distribute_tensor(tensor, layout)

    def branches(self, tensor):
        """Never: XLA copies nothing without need."""
        del tensor
        return False

    def with_logs(self, train_step, model, optimizer):
        def step(state, data):
            logs, state = train_step(state, data)
            observed = _observed(optimizer, model, state[2])
            return logs | optimizer.logs(observed), state

        return step

    def read(self, optimizer, model, output=None):
        """In the middle of an epoch the variables are not up to date.

        The state is in what the train function returned, `(logs, state)`.
        """
        if output is None:
            return super().read(optimizer, model)
        _, (_, _, optimizer_variables, _) = output
        return _on_host(_observed(optimizer, model, optimizer_variables))

    def is_there(self, optimizer):
        observed = optimizer.observed.values()
        return not any(jax_state.is_empty(v) for v in observed)

    def begin_to_read(self, optimizer, model, output):
        """The next step is given the arrays themselves, so they are copied."""
        _, (_, _, optimizer_variables, _) = output
        copies = _copies(_observed(optimizer, model, optimizer_variables))
        # As wanted as `device_get` is, which says so itself.
        with jax.transfer_guard_device_to_host("allow"):
            for value in copies.values():
                value.copy_to_host_async()
        return lambda: _on_host(copies)

    def place(self, variable, value):
        """Assigns an array of the host, the same on each of several.

        JAX compares what they assign, and NaN is not equal to NaN. Each of
        them places its part.
        """
        sharding = variable.value.sharding
        if not sharding.is_fully_addressable:
            value = np.asarray(value, variable.dtype)
            value = jax.make_array_from_callback(
                value.shape, sharding, lambda index: value[index]
            )
        variable.assign(value)

    def agree(self, model, decision):
        del model
        distribution = keras.distribution.distribution()
        if distribution is None:
            return decision
        devices = distribution.device_mesh.backend_mesh.devices.flat
        if len({device.process_index for device in devices}) == 1:
            return decision
        return bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))

    def compiles_ahead(self, train_function):
        """Not where several processes would have to agree on when."""
        is_jitted = jax_state.compiled_step(train_function) is not None
        return is_jitted and jax.process_count() == 1

    def peek(self, *arguments):
        state, iterator = arguments
        batch = next(iterator)
        leaves, tree = jax.tree.flatten(jax.tree.map(_like, batch))
        like = tuple(leaves), tree
        return (state, itertools.chain([batch], iterator)), like

    def begin_to_compile(self, model, train_function, batches):
        """Traces it here, by the flags of the moment; XLA compiles elsewhere.

        So the code of the model runs in one thread only, with the settings of
        that. What was compiled for a traced step is found again when that is
        called, as long as it lives. A process that ends waits for XLA.
        """
        step = jax_state.compiled_step(train_function)
        state = jax_state.state_to_train(model)
        lowered = [
            step.lower(state, jax.tree.unflatten(tree, leaves))
            for leaves, tree in batches
        ]
        pool = concurrent.futures.ThreadPoolExecutor(1)
        compiling = pool.submit(lambda: [each.compile() for each in lowered])
        pool.shutdown(wait=False)
        return compiling

    def sync(self, model):
        """Writes the state of the running epoch back into the variables.

        Keras takes it up again, partitioned anew, at the next batch.
        """
        model.jax_state_sync()

    def guard_state(self, model, check_flags):
        jax_state.guard(model, check_flags)

    def keep_state(self, model, arguments, output):
        """Writes back the latest state that was not given away.

        While a step runs the variables are empty, and what Keras would write
        back is the state before the last rebuild, or none at all.
        """
        state = arguments[0] if output is None else output[1]
        if not any(value.is_deleted() for value in jax.tree.leaves(state)):
            jax_state.write_back(model, state)

    def no_step(self, logs, *arguments):
        return logs, arguments[0]

    def compiles(self, model):
        return not model.run_eagerly and bool(model.jit_compile)


def _like(array):
    """Its shape, and where it is if that is not up to a step."""
    sharding = array.sharding if getattr(array, "committed", False) else None
    return jax.ShapeDtypeStruct(
        array.shape,
        array.dtype,
        sharding=sharding,
        weak_type=getattr(array, "weak_type", False),
    )


def _on_host(values):
    return {k: np.asarray(v) for k, v in jax.device_get(values).items()}


@jax.jit
def _copies(arrays):
    return jax.tree.map(jnp.copy, arrays)


def _observed(optimizer, model, optimizer_variables):
    """The observed state, out of the values of all optimizer variables."""
    position = {id(v): i for i, v in enumerate(model.optimizer.variables)}
    return {
        name: optimizer_variables[position[id(variable)]]
        for name, variable in optimizer.observed.items()
    }
