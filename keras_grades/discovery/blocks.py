"""Which block a projection belongs to: attention, and what goes with it."""

import keras

from keras_grades.discovery.attention import attention_roles
from keras_grades.discovery.attention import is_pooler
from keras_grades.discovery.feed_forward import feed_forward_roles
from keras_grades.discovery.feed_forward import is_adapter
from keras_grades.discovery.graph import graph_feed_forward_roles


class Blocks:
    """The Transformer blocks of a tree of layers.

    Args:
        root: `Node`, the model.
    """

    def __init__(self, root):
        self._nodes = list(_walk_past_poolers(root))
        self._attention = {
            id(node): roles
            for node in self._nodes
            if (roles := attention_roles(node))
        }
        self._known = {}
        self._add_outputs()
        self._used = {
            id(matrix)
            for pairs in self._attention.values()
            for matrix, _ in pairs
        }
        self._above_attention = {
            id(above)
            for node in self._nodes
            if id(node) in self._attention
            for above in (node, *node.ancestors())
        }

    def _add_outputs(self):
        """Finds the way out of attention that is held one layer above."""
        for node in self._nodes:
            pairs = self._attention.get(id(node))
            if not pairs or any(r == "attention_output" for _, r in pairs):
                continue
            width = pairs[-1][0].width_out
            back = [
                m
                for m in (node.parent.direct_matrices if node.parent else ())
                if m.width_in == width and not m.is_convolution
            ]
            if len(back) == 1:
                pairs.append((back[0], "attention_output"))

    def roles(self):
        """Yields each projection as (`Matrix`, role, `Node` of its block)."""
        blocks = {}
        for node in self._nodes:
            if id(node) in self._attention:
                block = self._block_of(node)
                blocks.setdefault(id(block), (block, []))[1].append(node)
        for block, attention in blocks.values():
            for node in attention:
                for matrix, role in self._attention[id(node)]:
                    yield matrix, role, block
            for matrix, role in self._feed_forward(block):
                yield matrix, role, block
        for node in self._nodes:
            above = {id(n) for n in node.ancestors()}
            if not above & blocks.keys() and self._mixes_without_weights(node):
                for matrix, role in self._feed_forward(node):
                    yield matrix, role, node

    def _block_of(self, attention):
        """The nearest layer that holds this and a feed-forward network.

        A layer that stacks several others with attention is none; then it is
        the attention layer itself.
        """
        for node in (attention, *attention.ancestors()):
            if self._feed_forward(node):
                return node
            if sum(id(c) in self._above_attention for c in node.children) > 1:
                break
        return attention

    def _feed_forward(self, node):
        """The feed-forward projections of a block, with their roles."""
        if id(node) not in self._known:
            self._known[id(node)] = self._find_feed_forward(node)
        return self._known[id(node)]

    def _find_feed_forward(self, node):
        widths = {
            matrix.width_in
            for n in node.walk()
            for matrix, role in self._attention.get(id(n), ())
            if role in ("query", "qkv")
        }
        parts = list(self._walk_without_attention(node))
        networks = [n for p in parts for n in self._networks(p, widths)]
        if not all(map(is_adapter, networks)):
            networks = [n for n in networks if not is_adapter(n)]
        return [pair for network in networks for pair in network]

    def _networks(self, node, widths):
        others = self._others(node)
        if is_graph(node.layer):
            return graph_feed_forward_roles(node, others)
        return feed_forward_roles(others, widths or None)

    def _others(self, node):
        """The matrices that a layer holds besides attention."""
        return [m for m in node.direct_matrices if id(m) not in self._used]

    def _walk_without_attention(self, node):
        yield node
        for child in node.children:
            if not (
                child.is_projection
                or id(child) in self._above_attention
                or is_pooler(child)
            ):
                yield from self._walk_without_attention(child)

    def _mixes_without_weights(self, node):
        """Whether a layer is a block whose token mixing has no weights.

        As in FNet: it normalizes, and all its matrices are feed-forward, to
        a greater width and back.
        """
        if id(node) in self._above_attention or node.parent is None:
            return False
        if not any(_is_normalization(c.layer) for c in node.children):
            return False
        matrices = list(node.all_matrices())
        feed_forward = self._feed_forward(node)
        return (
            bool(feed_forward)
            and not is_adapter(feed_forward)
            and len(feed_forward) == len(matrices)
        )


def _walk_past_poolers(node):
    yield node
    for child in node.children:
        if not is_pooler(child):
            yield from _walk_past_poolers(child)


def is_graph(layer):
    """Whether a layer is a functional model."""
    return isinstance(layer, keras.Model) and hasattr(layer, "operations")


def _is_normalization(layer):
    """Whether it normalizes each token by itself, as Transformers do."""
    return "Norm" in type(layer).__name__ and not isinstance(
        layer, keras.layers.BatchNormalization
    )
