"""The model as a tree of layers, with names of their own, and its matrices.

Keras names a layer that the user did not name after its class and a counter
of the process (`dense_7`). Such a layer goes by the attribute that holds it
(`query_proj`), so that names are the same from run to run.
"""

import dataclasses
import re

import keras

from keras_grades.backend import private

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
PROJECTIONS = (keras.layers.Dense, keras.layers.EinsumDense, *CONVOLUTIONS)


@dataclasses.dataclass(eq=False)
class Node:
    """A layer in the tree.

    Attributes:
        layer: The `keras.Layer`.
        attribute: String, the attribute of its parent that holds it, or "".
        path: String, its name below the root.
        parent: `Node`, or `None` for the root.
        children: List of `Node`, in the order in which data meets them.
        matrices: List of `Matrix`: of a layer that is a projection its
            kernel, of others the weights added by hand.
        is_projection: Boolean, whether it is a projection, or only adds
            something weightless to one.
    """

    layer: keras.Layer
    attribute: str
    path: str
    parent: "Node | None"
    children: list = dataclasses.field(default_factory=list)
    matrices: list = dataclasses.field(default_factory=list)
    is_projection: bool = False

    @property
    def direct_matrices(self):
        """Its own, and those of the projections that it holds."""
        held = [c for c in self.children if c.is_projection]
        return self.matrices + [m for c in held for m in c.all_matrices()]

    def all_matrices(self):
        """The matrices of this node and of all below."""
        for node in self.walk():
            yield from node.matrices

    def walk(self):
        """This node and all below, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def ancestors(self):
        """The nodes above, nearest first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent


@dataclasses.dataclass(eq=False)
class Matrix:
    """A weight of two or more dimensions that maps one width to another.

    Attributes:
        node: The `Node` that owns it.
        path: String, its name below the root.
        variables: Tuple of `keras.Variable`, kernel and bias, or LoRA pair.
        width_in, width_out: Integers.
        is_convolution: Boolean, whether it mixes neighbours, too.
        is_stack: Boolean, whether it is a stack of matrices, as of experts.
    """

    node: Node
    path: str
    variables: tuple
    width_in: int
    width_out: int
    is_convolution: bool = False
    is_stack: bool = False

    @property
    def names(self):
        """What it is called, and what holds nothing else."""
        node = self.node
        if not isinstance(node.layer, PROJECTIONS):
            return (self.variables[0].name,)
        names = (node.attribute, node.layer.name)
        if node.parent is not None and node.parent.is_projection:
            names += (node.parent.attribute, node.parent.layer.name)
        return names


def layer_tree(model):
    """Builds the tree; a layer that is used twice is met once."""
    root = Node(model, "", "", None)
    _grow(root, seen={id(model)})
    return root


def _grow(node, seen):
    names = {}
    for attribute, layer in private.sublayers(node.layer):
        name = _unique(_own_name(layer, attribute), names)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        path = f"{node.path}/{name}" if node.path else name
        child = Node(layer, attribute, path, node)
        node.children.append(child)
        _grow(child, seen)
    node.matrices = _matrices(node)
    node.is_projection = _is_projection(node)


def _is_projection(node):
    if isinstance(node.layer, PROJECTIONS):
        return True
    if isinstance(node.layer, keras.Model):
        return False
    weighty = [c for c in node.children if c.layer.variables]
    if len(node.matrices) == 1 and not weighty:
        return "proj" in node.matrices[0].names[0]
    return (
        not node.matrices
        and sum(c.is_projection for c in weighty) == 1
        and all(c.is_projection or not any(c.all_matrices()) for c in weighty)
    )


def _own_name(layer, attribute):
    generated = private.to_snake_case(type(layer).__name__)
    if re.fullmatch(rf"{re.escape(generated)}(_\d+)?", layer.name):
        return attribute or generated
    return layer.name


def _unique(name, used):
    """The name, numbered from its second use on."""
    count = used.get(name, 0)
    used[name] = count + 1
    return f"{name}_{count}" if count else name


def _matrices(node):
    layer = node.layer
    if isinstance(layer, CONVOLUTIONS):
        kernel = layer._kernel
        return [
            Matrix(
                node,
                node.path,
                _kernel_variables(layer),
                kernel.shape[-2],
                kernel.shape[-1],
                is_convolution=any(size > 1 for size in layer.kernel_size),
            )
        ]
    if isinstance(layer, PROJECTIONS):
        return [
            Matrix(
                node,
                node.path,
                _kernel_variables(layer),
                *_widths(layer),
            )
        ]
    matrices = _added_by_hand(node)
    if "Embedding" in type(layer).__name__:
        return [m for m in matrices if "proj" in m.names[0]]
    return matrices


def _kernel_variables(layer):
    if getattr(layer, "lora_enabled", False):
        return (layer.lora_kernel_a, layer.lora_kernel_b)
    bias = () if layer.bias is None else (layer.bias,)
    return (layer._kernel, *bias)


def _widths(layer):
    """What a Dense or EinsumDense sums over, and what it makes of it."""
    shape = layer._kernel.shape
    if isinstance(layer, keras.layers.Dense):
        return layer.input_spec.axes[-1], layer.units
    inputs, kernel, outputs = re.split(",|->", layer.equation.replace(" ", ""))
    width_in = width_out = 1
    for axis, size in zip(kernel, shape):
        if axis in inputs and axis not in outputs:
            width_in *= size
        elif axis in outputs and axis not in inputs:
            width_out *= size
        # Heads of the kernel that are neither: they go with the output.
    return width_in, width_out


def _added_by_hand(node):
    """Weights of rank two and more that a layer adds by itself."""
    below = {
        id(v)
        for _, layer in private.sublayers(node.layer)
        for v in layer.variables
    }
    own = [v for v in node.layer.variables if id(v) not in below]
    bias_of = {v.name: v for v in own if v.name.endswith("bias")}
    matrices = []
    for kernel in own:
        if len(kernel.shape) < 2 or kernel.name in bias_of:
            continue
        bias = bias_of.get(
            f"{kernel.name}_bias",
            bias_of.get(kernel.name.replace("kernel", "bias")),
        )
        matrices.append(
            Matrix(
                node,
                f"{node.path}/{kernel.name}" if node.path else kernel.name,
                (kernel,) if bias is None else (kernel, bias),
                kernel.shape[-2],
                kernel.shape[-1],
                is_stack=len(kernel.shape) > 2,
            )
        )
    return matrices
