"""What a monitor is, and how its state is declared."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_grades.component import Component

# What a monitor hands from `before` to `after`; its state, by name.
Carry = Any
State = dict[str, Any]

# Stands for a statistic that is not known yet. It is below every threshold,
# but the optimizer leaves it out. NaN would trip checks for NaN.
UNDEFINED = np.finfo("float32").min


class StateSpec(NamedTuple):
    """Declares a tensor of state; it is made, saved and loaded from this.

    Attributes:
        shape: Tuple of integers. `None` stands for one tensor for each
            variable of the components, of its shape and dtype.
        dtype: String. Defaults to `"float32"`.
        initial: Float, the value of each entry at first. Defaults to `0`.
    """

    shape: tuple[int, ...] | None
    dtype: str = "float32"
    initial: float = 0


class Monitor:
    """Measures one number for each of n components, the statistic.

    A component converges when its statistic stays below tau. A monitor of
    your own sees each step twice, before and after the update, and keeps what
    it must remember in a state that is declared once: it travels with every
    checkpoint, and training goes on from it on any backend.

    Use the functions of `keras.ops`: the step is compiled. All that changes
    from step to step belongs to the state, nothing to the monitor itself.
    Where `gradients` and `variables` are asked for, they are a list of n
    tuples, one a component, of its variables that have a gradient at this
    step; a tuple is empty where a component is structurally frozen or has
    no gradient. The optimizer leaves out its statistic then, and that of a
    component whose gradient is zero; the state of such a component, if it
    has one entry a component, stays as it was.

    Example, the norm of a running mean of the kernel's gradient:

    ```python
    @keras.saving.register_keras_serializable()
    class MeanGradient(keras_grades.monitors.Monitor):
        def init(self, components):
            return {"mean": keras_grades.monitors.StateSpec(None)}

        def before(self, state, gradients, variables):
            return [
                tuple(0.9 * m + 0.1 * g for m, g in zip(*pair))
                for pair in zip(state["mean"], gradients)
            ]

        def after(self, state, carry, variables):
            kernels = [keras.ops.ravel(m[0]) if m else [0.0] for m in carry]
            norms = [keras.ops.norm(kernel) for kernel in kernels]
            return keras.ops.stack(norms), {"mean": carry}

    callback = keras_grades.GradES(tau=0.01, monitor=MeanGradient())
    ```

    Attributes:
        first_step: Integer, the first step at which there can be a statistic.
            Defaults to `1`.
    """

    first_step: int = 1

    def init(self, components: Sequence[Component]) -> dict[str, StateSpec]:
        """Declares the state.

        Args:
            components: Sequence of n `Component`.

        Returns:
            Dict from a name to a `StateSpec`. Defaults to no state.
        """
        del components
        return {}

    def before(
        self, state: State, gradients: list[tuple], variables: list[tuple]
    ) -> Carry:
        """Looks at a step before the update.

        Args:
            state: Dict of tensors, as declared by `init`; of a `StateSpec`
                without a shape, a list of n tuples like `variables`. And
                `"step"`, the number of this step, counted from 1.
            gradients: List of n tuples of tensors: unscaled, averaged over
                accumulated batches, before clipping.
            variables: List of n tuples of `keras.Variable`.

        Returns:
            Anything, to be handed to `after`.
        """
        del state, gradients, variables

    def after(
        self, state: State, carry: Carry, variables: list[tuple]
    ) -> tuple[Any, State]:
        """Measures, once the update of the step is applied.

        Frozen components have moved too; they are put back afterwards.

        Args:
            state: As in `before`.
            carry: What `before` returned.
            variables: As in `before`, with their new values.

        Returns:
            The statistic, a float tensor of shape `(n,)`, `UNDEFINED` where
            there is none yet; and the new state, a dict of what `init`
            declared.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for saving. Defaults to none."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        return cls(**config)


def flatten(groups):
    """The members of all tuples in one list."""
    return [member for group in groups for member in group]


def sum_by_component(values, groups):
    """Sums what belongs to one component.

    Args:
        values: Tensor of shape `(k,)`, one number a variable.
        groups: List of n tuples with k members in all.

    Returns:
        Tensor of shape `(n,)`.
    """
    sizes = [len(group) for group in groups]
    index = np.repeat(np.arange(len(groups), dtype="int32"), sizes)
    return ops.segment_sum(values, index, num_segments=len(groups))
