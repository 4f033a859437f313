"""Checks of arguments: each error says the fault, and the value received."""

import math
import numbers
import re

import numpy as np

# So many names of a list stand in a message.
NAMED = 8
# Arguments that older versions took, and what to use in their place.
RETIRED = {
    "thaw": (
        "It released components that had frozen too early, and gained nothing "
        "in any benchmark. To freeze later, use a larger `patience` or a "
        "smaller `tau`; to settle before freezing, use `cooldown`."
    ),
    "interval": (
        "Every step is measured, which costs the same. To ask for more "
        "evidence before a component freezes, use a larger `patience`."
    ),
}


def excerpt(names):
    """The first names of a list, for an error message."""
    more = f", ... ({len(names)} in all)" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def check_pattern(name, pattern):
    """Compiles a regular expression.

    Args:
        name: String, what the pattern is, as an error calls it.
        pattern: What was received in its place.

    Returns:
        `re.Pattern`.
    """
    if not isinstance(pattern, str):
        raise TypeError(
            f"{name} must be a regular expression. Received: {pattern!r} of "
            f"type {type(pattern).__name__}"
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{name} must be a valid regular expression. Received: "
            f"{pattern!r} ({error})"
        ) from error


def check_known(arguments, known):
    """Raises if a keyword argument is not known, or is retired.

    Args:
        arguments: Dict of what was received.
        known: Collection of the names that may be in it.
    """
    for name, value in arguments.items():
        if name in RETIRED:
            raise TypeError(
                f"`{name}` was retired. {RETIRED[name]} Received: "
                f"{name}={value!r}"
            )
        if name not in known:
            raise TypeError(f"Unknown argument. Received: {name}={value!r}")


def is_real(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_integer(name, value, at_least):
    if not is_integer(value):
        raise TypeError(
            f"`{name}` must be an integer. {_received(name, value)}"
        )
    if value < at_least:
        raise ValueError(
            f"`{name}` must be >= {at_least}. Received: {name}={value!r}"
        )


def check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {tuple(choices)}. Received: "
            f"{name}={value!r}"
        )


def check_tau(tau, above):
    if isinstance(tau, dict):
        if not tau:
            raise ValueError(
                "`tau` as a dict must have at least one pattern. Received: "
                "tau={}"
            )
        for pattern in tau:
            check_pattern("Each key of `tau`", pattern)
        values = list(tau.values())
    else:
        values = list(tau) if isinstance(tau, (list, tuple)) else [tau]
    for value in values:
        if not is_real(value):
            raise TypeError(
                "`tau` must be a positive float, a dict from a regular "
                "expression on component names to a positive float, or "
                f"'auto'. {_received('tau', tau)}"
            )
        with np.errstate(over="ignore"):
            kept = np.float32(value)  # As the device has it.
        if not (kept > above and math.isfinite(kept)):
            wanted = "positive" if above == 0 else f"greater than {above}"
            raise ValueError(
                f"`tau` must be {wanted} and finite, as a float32: a "
                "component freezes when its statistic falls below it. "
                f"Received: tau={tau!r}"
            )


def check_alpha(alpha):
    if not is_real(alpha):
        raise TypeError(
            "`alpha` must be a float, a share of the planned steps, or an "
            f"integer, a number of steps. {_received('alpha', alpha)}"
        )
    in_range = alpha >= 0 if is_integer(alpha) else 0 <= alpha < 1
    if not in_range:
        raise ValueError(
            "`alpha` must be a float in [0, 1), a share of the planned steps, "
            "or an integer >= 0, a number of steps. Received: "
            f"alpha={alpha!r}"
        )


def check_cooldown(cooldown):
    expected = (
        "`cooldown` must be an integer >= 0, a number of steps, or a float "
        ">= 0, a multiple of the step at which a component has converged. "
    )
    if not is_real(cooldown):
        raise TypeError(expected + _received("cooldown", cooldown))
    if not (cooldown >= 0 and math.isfinite(cooldown)):
        raise ValueError(f"{expected}Received: cooldown={cooldown!r}")


def check_horizon(horizon):
    expected = (
        "`horizon` must be a float > 0, a number of epochs, an integer >= 1, "
        "a number of steps, or None. "
    )
    if horizon is not None and not is_real(horizon):
        raise TypeError(expected + _received("horizon", horizon))
    if horizon is not None and not (horizon > 0 and math.isfinite(horizon)):
        raise ValueError(f"{expected}Received: horizon={horizon!r}")


def check_optimizer_path(optimizer):
    """Raises if `optimizer` is not `None` or a path of attributes."""
    if optimizer is None:
        return
    if not isinstance(optimizer, str):
        raise TypeError(
            "`optimizer` must be None or the name of an attribute of the "
            f"model, a string. Received: optimizer={optimizer!r} of type "
            f"{type(optimizer).__name__}"
        )
    if not all(name.isidentifier() for name in optimizer.split(".")):
        raise ValueError(
            "`optimizer` must be the name of an attribute of the model, or "
            "several, joined by dots, as in 'generator.optimizer'. Received: "
            f"optimizer={optimizer!r}"
        )


def check_max_frozen_ratio(ratio):
    if not is_real(ratio):
        raise TypeError(
            "`max_frozen_ratio` must be a float in (0, 1]. "
            + _received("max_frozen_ratio", ratio)
        )
    if not 0 < ratio <= 1:
        raise ValueError(
            "`max_frozen_ratio` must be in (0, 1], the share of frozen "
            "components at which training stops. Received: "
            f"max_frozen_ratio={ratio!r}"
        )


def check_recompile(mode):
    expected = (
        "`recompile` must be 'auto', 'always', 'never' or an integer >= 1, a "
        "number of newly frozen components. "
    )
    if not isinstance(mode, str) and not is_integer(mode):
        raise TypeError(expected + _received("recompile", mode))
    allowed = ("auto", "always", "never")
    if mode not in allowed if isinstance(mode, str) else mode < 1:
        raise ValueError(f"{expected}Received: recompile={mode!r}")


def check_verbose(verbose):
    if verbose != "auto" and not (is_integer(verbose) and 0 <= verbose <= 2):
        raise ValueError(
            "`verbose` must be 0, 1, 2 or 'auto'. "
            + _received("verbose", verbose)
        )


def _received(name, value):
    return f"Received: {name}={value!r} of type {type(value).__name__}"
