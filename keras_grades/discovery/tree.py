"""The model as a tree of layers, with names of their own, and its matrices.

Keras names a layer that the user did not name after its class and a counter
of the process (`dense_7`). Such a layer goes by the attribute that holds it
(`query_proj`), so that names are the same from run to run.
"""

import dataclasses
import re

import keras

from keras_grades.keras_internals.graph import graph_of
from keras_grades.keras_internals.layers import generated_name
from keras_grades.keras_internals.layers import own_variables
from keras_grades.keras_internals.layers import raw_kernel
from keras_grades.keras_internals.layers import sublayers

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
        """Its name, and that of a layer that holds nothing else."""
        node = self.node
        if not isinstance(node.layer, PROJECTIONS):
            return (self.path.rpartition("/")[2],)
        names = (node.attribute, node.layer.name)
        if node.parent is not None and node.parent.is_projection:
            names += (node.parent.attribute, node.parent.layer.name)
        return names


def words(name):
    """The words of a name, without numbers: of `keyProj_1`, key and proj."""
    return {w.lower() for w in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}


def is_adapted(layer):
    """Whether it is a projection that trains a LoRA pair."""
    return isinstance(layer, PROJECTIONS) and layer.lora_enabled


def is_normalization(layer):
    """Whether it normalizes each token by itself, as Transformers do."""
    return "Norm" in type(layer).__name__ and not isinstance(
        layer, keras.layers.BatchNormalization
    )


def branching_graph(layer):
    """The graph of a layer, or `None` if it has none, or is a chain.

    In a chain the order of the layers tells as much as the edges.
    """
    graph = graph_of(layer)
    if graph is None or isinstance(layer, keras.Sequential):
        return None
    return graph


def embedding_variable_ids(root):
    """The ids of all variables in a tree that an embedding looks up."""
    return {
        id(v)
        for node in root.walk()
        if isinstance(node.layer, keras.layers.Embedding)
        for v in node.layer.variables
    }


def layer_tree(model):
    """Builds the tree; a layer that is used twice is met once."""
    root = Node(model, "", "", None)
    _grow(root, seen={id(model)})
    return root


def _grow(node, seen):
    names = {}
    for attribute, layer in sublayers(node.layer):
        name = _unique(_own_name(layer, attribute), names)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        path = f"{node.path}/{name}" if node.path else name
        child = Node(layer, attribute, path, node)
        node.children.append(child)
        _grow(child, seen)
    node.matrices = _matrices(node, names)
    node.is_projection = _is_projection(node)


def group_lists(root):
    """Puts the layers that several lists hold at one index into one node.

    So the parts of a block stay together where no layer holds them. In a
    functional model the edges tell more.
    """
    for node in list(root.walk()):
        lists = {} if branching_graph(node.layer) else _lists(node)
        if len(lists) < 2:
            continue
        groups, children = {}, []
        group_of = {c: i for held in lists.values() for i, c in held.items()}
        for child in node.children:
            index = group_of.get(child)
            if index is None:
                children.append(child)
                continue
            if index not in groups:
                path = f"{node.path}/block_{index}".lstrip("/")
                groups[index] = Node(node.layer, "", path, node)
                children.append(groups[index])
            groups[index].children.append(child)
            child.parent = groups[index]
        node.children = children


def _lists(node):
    """The lists with one layer for each block: name to index to `Node`.

    Their matrices read or make equal widths. In a list of layers that follow
    each other, such as a way up and a way back, they do not, or a matrix
    stands beside layers of another kind.
    """
    names = {
        name.lstrip("_")
        for name, held in vars(node.layer).items()
        if isinstance(held, (list, tuple))
    }
    lists = {}
    for child in node.children:
        name, _, index = child.attribute.rpartition("_")
        if name in names and index.isdigit() and any(child.all_matrices()):
            lists.setdefault(name, {})[index] = child
    return {name: held for name, held in lists.items() if _is_alike(held)}


def _is_alike(held):
    first = [next(child.all_matrices()) for child in held.values()]
    kinds = {type(child.layer) for child in held.values()}
    if len(kinds) > 1 and any(child.is_projection for child in held.values()):
        return False
    return len(first) > 1 and (
        len({m.width_in for m in first}) == 1
        or len({m.width_out for m in first}) == 1
    )


def _is_projection(node):
    if isinstance(node.layer, PROJECTIONS):
        return True
    if isinstance(node.layer, keras.Model):
        return False
    weighty = [c for c in node.children if c.layer.weights]
    if len(node.matrices) == 1 and not weighty:
        return "proj" in node.matrices[0].names[0]
    return (
        not node.matrices
        and sum(c.is_projection for c in weighty) == 1
        and all(c.is_projection or not any(c.all_matrices()) for c in weighty)
    )


def _own_name(held, attribute):
    """The name of a layer or variable, if the user gave it one."""
    generated = generated_name(held)
    if re.fullmatch(rf"{re.escape(generated)}(_\d+)?", held.name):
        return attribute or generated
    return held.name


def _unique(name, used):
    """The name, numbered from its second use on."""
    unique = name
    while unique in used:
        unique = f"{name}_{used[name]}"
        used[name] += 1
    used[unique] = 1
    return unique


def _matrices(node, names):
    layer = node.layer
    if not isinstance(layer, PROJECTIONS):
        matrices = _added_by_hand(node, names)
        if "Embedding" in type(layer).__name__:
            return [m for m in matrices if "proj" in m.names[0]]
        return matrices
    if raw_kernel(layer) is None:
        return []  # It was never called, or is quantized for good.
    mixes = isinstance(layer, CONVOLUTIONS) and max(layer.kernel_size) > 1
    variables = _kernel_variables(layer)
    return [Matrix(node, node.path, variables, *_widths(layer), mixes)]


def _kernel_variables(layer):
    if is_adapted(layer):
        return (layer.lora_kernel_a, layer.lora_kernel_b)
    bias = () if layer.bias is None else (layer.bias,)
    return (raw_kernel(layer), *bias)


def _widths(layer):
    """What a projection sums over, and what it makes of it."""
    if isinstance(layer, CONVOLUTIONS):
        return raw_kernel(layer).shape[-2:]
    if isinstance(layer, keras.layers.Dense):
        # A subclass may have a `build` of its own.
        axes = layer.input_spec.axes or {}
        return axes.get(-1, raw_kernel(layer).shape[0]), layer.units
    # Packed to int4, the kernel itself is of another shape.
    kernel = raw_kernel(layer)
    shape = getattr(layer, "original_kernel_shape", kernel.shape)
    inputs, axes, outputs = re.split(",|->", layer.equation.replace(" ", ""))
    width_in = width_out = 1
    for axis, size in zip(axes, shape):
        if axis in inputs and axis not in outputs:
            width_in *= size
        elif axis in outputs and axis not in inputs:
            width_out *= size
        # Heads of the kernel that are neither: they go with the output.
    return width_in, width_out


def _added_by_hand(node, names):
    """Weights of rank two and more that a layer adds by itself."""
    own = own_variables(node.layer)
    if all(len(v.shape) < 2 for _, v in own):
        return []
    below = {id(v) for c in node.children for v in c.layer.variables}
    own = {
        _unique(_own_name(v, attribute), names): v
        for attribute, v in own
        if id(v) not in below
    }
    matrices, biases = [], set()
    for name, kernel in own.items():
        if len(kernel.shape) < 2 or name.endswith("bias") or name in biases:
            continue
        bias = [b for b in own if _is_bias(b, name, own)][:1]
        biases.update(bias)
        matrices.append(
            Matrix(
                node,
                f"{node.path}/{name}" if node.path else name,
                (kernel, *(own[b] for b in bias)),
                kernel.shape[-2],
                kernel.shape[-1],
                is_stack=len(kernel.shape) > 2,
            )
        )
    return matrices


def _is_bias(bias, kernel, own):
    """Whether one is of lower rank, and else named as the other is."""
    return len(own[bias].shape) < len(own[kernel].shape) and (
        _stem(bias) == _stem(kernel)
    )


def _stem(name):
    """The name without what says kernel or bias: of `wq` and `bq`, `q`."""
    name = re.sub("kernel|weights?|bias|(?<![a-z])[wb]", "", name.lower())
    return name.strip("_")
