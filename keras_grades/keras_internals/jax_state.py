"""How Keras keeps the state of a running epoch on JAX, and its step."""

import functools
import inspect

# The parts of the state of a step, in this order.
PARTS = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)
# Where Keras makes the train function out of a step.
MAKER = "JAXTrainer._make_function"
# What `guard` puts on a model.
GUARDS = ("_get_jax_state", "jax_state_sync", "make_test_function")


def guard(model, check_flags):
    """Makes Keras write the state back to the variables that it came from.

    It would go by the flags of the moment, which may have been changed since
    the state was taken, and hand values to the wrong variables. And so would
    a compiled step: flags are checked each time that the state is taken, and
    no trace of a test step is found again.

    Args:
        model: A `keras.Model`.
        check_flags: Function that raises if flags were changed.
    """
    weights = PARTS[:2]
    taken_from = {}
    lent = []

    def get_jax_state(**arguments):
        trains = arguments.get("optimizer_variables")
        if trains:
            check_flags()  # It may set them back.
        taken_from.update({name: getattr(model, name) for name in weights})
        if not trains:
            lent[:] = [
                (v, v.value) for name in weights for v in taken_from[name]
            ]
        return type(model)._get_jax_state(model, **arguments)

    def jax_state_sync():
        # Validation that fails at its first batch has written nothing yet.
        for variable, value in lent:
            if is_empty(variable) and not value.is_deleted():
                variable.assign(value)
        lent.clear()
        state = getattr(model, "_jax_state", None)
        if state and not model._jax_state_synced:
            for name in weights:
                # Written back once: it may be given away afterwards.
                for variable, value in zip(
                    taken_from[name], state.pop(name, [])
                ):
                    variable.assign(value)
            if not state:
                # `predict()` has no more in it, and Keras passes over that.
                model._jax_state_synced = True
        type(model).jax_state_sync(model)

    def make_test_function(force=False):
        own, step = vars(model).get("test_step"), model.test_step

        @functools.wraps(step)
        def test_step(*args, **kwargs):
            return step(*args, **kwargs)

        # A new function each time: JAX finds traces by function, and Keras
        # has it trace the method, which is equal to itself.
        model.test_step = test_step
        try:
            type(model).make_test_function(model, force)
        finally:
            del model.test_step
            if own is not None:
                model.test_step = own

    model._get_jax_state = get_jax_state
    model.jax_state_sync = jax_state_sync
    model.make_test_function = make_test_function


def state_to_train(model):
    """What the next step would be given, a tuple of lists of values.

    Args:
        model: A `keras.Model` whose variables are up to date.
    """
    return model._get_jax_state(**dict.fromkeys(PARTS, True))


def is_empty(variable):
    """Whether a variable has no value, as while a step runs, or a deleted one.

    Args:
        variable: A built `keras.Variable`.
    """
    value = variable._value
    return value is None or value.is_deleted()


def compiled_step(train_function):
    """The step that was jitted for a train function, or `None`.

    Args:
        train_function: What `make_train_function` has made, of Keras or of a
            class of the user's.
    """
    name = getattr(train_function, "__qualname__", "")
    if not name.startswith(f"{MAKER}.") or not inspect.isfunction(
        train_function
    ):
        return None
    step = inspect.getclosurevars(train_function).nonlocals.get("step_function")
    # It is not jitted where `jit_compile` is off.
    return step if hasattr(step, "lower") else None


def write_back(model, state):
    """Writes a state, a tuple of lists of values, into the variables."""
    model._jax_state = dict(zip(PARTS, state))
    model._jax_state_synced = False
    model.jax_state_sync()
