"""A monitor is tried out before training begins: what it returns is checked."""

from keras import ops

from keras_grades.monitors.base import StateSpec


def try_out(monitor, declared, taken, components):
    """Calls a monitor once, on gradients of zeros.

    Args:
        monitor: `Monitor`.
        declared: What its `init` returned.
        taken: Set of the names that its state may not have.
        components: Sequence of n `Component`.

    Raises:
        ValueError, TypeError: If what it declares or returns is not as
            `Monitor` describes it.
    """
    name = type(monitor).__name__
    _check_declared(f"`{name}.init`", declared, taken)
    variables = [component.variables for component in components]
    state = {key: _initial(spec, variables) for key, spec in declared.items()}
    zeros = _initial(StateSpec(None), variables)
    carry = monitor.before(state, zeros, variables)
    result = monitor.after(state, carry, variables)
    _check_measured(f"`{name}.after`", result, declared, variables)


def _initial(spec, variables):
    if spec.shape is not None:
        return ops.full(spec.shape, spec.initial, spec.dtype)
    return [
        tuple(ops.full(v.shape, spec.initial, v.dtype) for v in group)
        for group in variables
    ]


def _check_declared(name, declared, taken):
    if not isinstance(declared, dict) or not all(
        isinstance(spec, StateSpec) for spec in declared.values()
    ):
        raise TypeError(
            f"{name} must return a dict from a name to a `StateSpec`. "
            f"Received: {declared!r}"
        )
    clashes = sorted(taken & set(declared))
    if clashes:
        raise ValueError(
            f"{name} must choose other names: these are used by GradES "
            f"itself. Received: {clashes}"
        )


def _check_measured(name, result, declared, variables):
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{name} must return two things, the statistic and the new state. "
            f"Received: {_shown(result)}"
        )
    statistic, state = result
    n = len(variables)
    if _shape_of(statistic) != (n,):
        raise ValueError(
            f"{name} must return a statistic of shape {(n,)}, one number a "
            f"component. Received: {_shown(statistic)}"
        )
    if not isinstance(state, dict) or set(state) != set(declared):
        raise ValueError(
            f"{name} must return a state with the names that `init` "
            f"declared: {sorted(declared)}. Received: "
            f"{sorted(state) if isinstance(state, dict) else state!r}"
        )
    for key, spec in declared.items():
        if spec.shape is None:
            _check_like_variables(name, key, state[key], variables)
        elif _shape_of(state[key]) != tuple(spec.shape):
            raise ValueError(
                f"{name} must return the state {key!r} in the shape that "
                f"`init` declared, {tuple(spec.shape)}. Received: "
                f"{_shown(state[key])}"
            )


def _check_like_variables(name, key, state, variables):
    expected = [[_shape_of(v) for v in group] for group in variables]
    if [[_shape_of(t) for t in group] for group in state] != expected:
        raise ValueError(
            f"{name} must return the state {key!r} as a list of tuples, with "
            "a tensor of its shape for each variable, as `init` declared it "
            f"without a shape. Received: {state!r}"
        )


def _shape_of(value):
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def _shown(value):
    shape = _shape_of(value)
    return repr(value) if shape is None else f"shape {shape}"
