"""What GradES watches: one projection matrix, and the list of them."""

import dataclasses
import math
from typing import NamedTuple

import keras

ROLES = (
    "query",
    "key",
    "value",
    "qkv",
    "attention_output",
    "ffn_up",
    "ffn_gate",
    "ffn_gate_up",
    "ffn_down",
)


class VariableSpec(NamedTuple):
    """What a pickled `Component` knows of a variable.

    Attributes:
        path: String.
        shape: Tuple of integers.
        dtype: String.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(eq=False)
class Component:
    """One projection inside an attention module or a feed-forward network.

    Attributes:
        name: String. The layer's path in the model, unique, for example
            `"transformer_layer_0/self_attention_layer/query"`.
        role: String. One of `"query"`, `"key"`, `"value"`, `"qkv"`,
            `"attention_output"`, `"ffn_up"`, `"ffn_gate"`, `"ffn_gate_up"`,
            `"ffn_down"`.
        block: String. The path of the Transformer layer that it sits in.
        variables: Tuple of `keras.Variable`, the very objects of the model:
            a kernel with its bias, a LoRA pair (A, B), or one stack of
            expert matrices.
        frozen_at: Integer, the step whose update was its last, or `None`
            while it is still trained.
    """

    name: str
    role: str
    block: str
    variables: tuple[keras.Variable, ...]
    frozen_at: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Tuple of integers. The shape of the kernel (the first variable)."""
        return tuple(self.variables[0].shape)

    @property
    def size(self) -> int:
        """Integer. The number of parameters."""
        return sum(math.prod(v.shape) for v in self.variables)

    def __getstate__(self):
        # A copy is of no model: weights are saved with their model.
        variables = tuple(
            VariableSpec(v.path, tuple(v.shape), str(v.dtype))
            for v in self.variables
        )
        return {**vars(self), "variables": variables}


@dataclasses.dataclass(eq=False)
class Followers:
    """Variables that are frozen once all of some components are.

    Attributes:
        variables: Tuple of `keras.Variable`, no component's.
        components: Tuple of integers, places in the list of components.
    """

    variables: tuple[keras.Variable, ...]
    components: tuple[int, ...]

    def are_frozen(self, frozen):
        """Whether they are, given a boolean array, one entry a component."""
        return bool(frozen[list(self.components)].all())


def frozen_variables(components, followers, frozen):
    """The variables of frozen components, and of what follows these.

    Args:
        components: Sequence of n `Component`.
        followers: Sequence of `Followers` of those.
        frozen: Boolean array of shape `(n,)`.
    """
    groups = [c for c, is_frozen in zip(components, frozen) if is_frozen]
    groups += [f for f in followers if f.are_frozen(frozen)]
    return [v for group in groups for v in group.variables]


class ComponentList(list[Component]):
    """A list of `Component` that prints as a table."""

    def __str__(self) -> str:
        header = ("name", "role", "block", "shape", "parameters")
        rows = [
            (c.name, c.role, c.block, str(c.shape), f"{c.size:,}") for c in self
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        lines = [
            "  ".join(
                [cell.ljust(w) for cell, w in zip(row[:-1], widths)]
                + [row[-1].rjust(widths[-1])]
            )
            for row in [header, tuple("-" * w for w in widths), *rows]
        ]
        blocks = len({c.block for c in self})
        lines.append(
            f"{len(self)} components in {blocks} blocks, "
            f"{sum(c.size for c in self):,} parameters"
        )
        return "\n".join(lines)
