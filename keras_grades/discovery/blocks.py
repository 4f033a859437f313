"""Which block a projection belongs to: attention and its networks."""

import collections
import itertools

from keras_grades.discovery.attention import attention_roles
from keras_grades.discovery.attention import is_pooler
from keras_grades.discovery.attention import named_role
from keras_grades.discovery.attention import one_by_one
from keras_grades.discovery.feed_forward import convolution_roles
from keras_grades.discovery.feed_forward import feed_forward_matrices
from keras_grades.discovery.feed_forward import feed_forward_roles
from keras_grades.discovery.feed_forward import is_adapter
from keras_grades.discovery.feed_forward import is_bottleneck
from keras_grades.discovery.graph import Graph
from keras_grades.discovery.tree import CONVOLUTIONS
from keras_grades.discovery.tree import branching_graph
from keras_grades.discovery.tree import group_lists
from keras_grades.discovery.tree import is_normalization


class Blocks:
    """The Transformer blocks of a tree of layers.

    Args:
        root: `Node`, the model.
    """

    def __init__(self, root):
        self._order = {m: i for i, m in enumerate(root.all_matrices())}
        group_lists(root)
        self._nodes = list(_walk_past_poolers(root))
        self._graphs = {
            node: Graph(node, graph)
            for node in self._nodes
            if (graph := branching_graph(node.layer)) is not None
        }
        self._attention = {
            node: units
            for node in self._nodes
            if (units := self._find_attention(node))
        }
        self._add_outputs()
        self._known = {}
        self._used = {
            matrix
            for units in self._attention.values()
            for pairs in units
            for matrix, _ in pairs
        }
        self._above_attention = {
            above
            for node in self._attention
            for above in (node, *node.ancestors())
        }

    def _find_attention(self, node):
        """What attends in a layer, a list of pairs of matrix and role each."""
        if node not in self._graphs:
            pairs = attention_roles(node)
            return [pairs] if pairs else []
        return self._graphs[node].attention_roles() or one_by_one(
            attention_roles(node)
        )

    def _add_outputs(self):
        """Finds the way out of attention that is held one layer above.

        The layer above then is the attention, of one head or of several.
        """
        heads = collections.defaultdict(list)
        for node, units in self._attention.items():
            if node.parent and node not in self._graphs:
                [pairs] = units
                if all(role != "attention_output" for _, role in pairs):
                    heads[node.parent].append(node)
        for parent, nodes in heads.items():
            pairs = [
                pair for node in nodes for pair in self._attention[node][0]
            ]
            width = sum(self._attention[n][0][-1][0].width_out for n in nodes)
            reads = {m.width_in for m, role in pairs if role == "query"}
            taken = feed_forward_matrices(parent.direct_matrices, reads)
            back = [
                m
                for m in parent.direct_matrices
                if m.width_in == width
                and m.width_out in reads
                and not m.is_convolution
                and m not in taken
            ]
            if len(back) == 1:
                for node in nodes:
                    del self._attention[node]
                pairs.append((back[0], "attention_output"))
                self._attention.setdefault(parent, []).append(pairs)

    def roles(self):
        """Yields each projection as (`Matrix`, role, path of its block)."""
        for path, units in sorted(
            self._blocks(), key=lambda b: self._begin(b[1])
        ):
            pairs = [pair for unit in units for pair in unit]
            for matrix, role in sorted(pairs, key=lambda p: self._order[p[0]]):
                yield matrix, role, path

    def _blocks(self):
        """Yields the path of each block and its parts, lists of pairs."""
        attention, taken = {}, {node.path for node in self._nodes}
        for node, units in self._attention.items():
            attention.setdefault(self._block_of(node), []).extend(units)
        for node, units in attention.items():
            blocks = self._divide(node, units)
            # Where no layer holds one block alone, they are numbered.
            numbered = (
                f"{node.path}/block_{i}".lstrip("/") for i in itertools.count()
            )
            free = (path for path in numbered if path not in taken)
            for block in sorted(blocks, key=self._begin):
                is_named = node.path and node not in self._graphs
                yield node.path if is_named else next(free), block
        for node in self._nodes:
            if attention.keys().isdisjoint(
                node.ancestors()
            ) and self._mixes_without_weights(node):
                yield node.path, self._feed_forward(node)

    def _divide(self, node, attention):
        """The blocks in a layer: one, or in a functional model several."""
        networks = self._feed_forward(node)
        blocks = [(attention, networks)]
        if node in self._graphs:
            blocks = self._graphs[node].blocks(attention, networks)
        return [a + _without_adapters(n, a) for a, n in blocks]

    def _begin(self, block):
        return min(self._order[m] for pairs in block for m, _ in pairs)

    def _block_of(self, attention):
        """The nearest layer that holds this and a feed-forward network.

        A layer that stacks several others with attention is not; then the
        block is the attention layer itself.
        """
        for node in (attention, *attention.ancestors()):
            if self._feed_forward(node):
                return node
            if sum(c in self._above_attention for c in node.children) > 1:
                break
        return attention

    def _feed_forward(self, node):
        """The feed-forward networks of a block, lists of pairs each."""
        if node not in self._known:
            self._known[node] = self._find_feed_forward(node)
        return self._known[node]

    def _find_feed_forward(self, node):
        widths = {
            matrix.width_in
            for n in node.walk()
            for pairs in self._attention.get(n, ())
            for matrix, role in pairs
            if role in ("query", "qkv")
        }
        parts = list(self._walk_without_attention(node))
        found = [
            n
            for p in parts
            for n in self._networks(p, widths)
            if p is node or not _is_inverted_residual(p, n)
        ]
        return found or [
            n for p in parts for n in convolution_roles(self._free(p), widths)
        ]

    def _networks(self, node, widths):
        if node in self._graphs:
            return self._graphs[node].feed_forward_roles(self._free(node))
        return feed_forward_roles(self._free(node), widths)

    def _free(self, node):
        return [m for m in node.direct_matrices if m not in self._used]

    def _walk_without_attention(self, node):
        yield node
        for child in node.children:
            if not (
                child.is_projection
                or child in self._above_attention
                or is_pooler(child)
            ):
                yield from self._walk_without_attention(child)

    def _mixes_without_weights(self, node):
        """Whether a layer is a block whose token mixing has no weights.

        As in FNet: it normalizes, and all its matrices are feed-forward, to
        a width that is not less and back.
        """
        if node in self._above_attention or node.parent is None:
            return False
        if any(_is_asked(m) for m in node.all_matrices()):
            return False
        if not any(is_normalization(c.layer) for c in node.children):
            return False
        networks = self._feed_forward(node)
        return any(not is_bottleneck(n) for n in networks) and sum(
            map(len, networks)
        ) == len(list(node.all_matrices()))


def _is_asked(matrix):
    """Whether a name tells of queries, keys or values, as in a scoring head."""
    roles = set(map(named_role, matrix.names))
    return bool(roles & {"query", "key", "value", "qkv"})


def _is_inverted_residual(node, network):
    """Whether all that a layer holds are convolutions, some of neighbours."""
    return any(m.is_convolution for m in node.direct_matrices) and all(
        isinstance(m.node.layer, CONVOLUTIONS) for m, _ in network
    )


def _without_adapters(networks, attention):
    """Leaves out adapters next to a wide network, or without attention."""
    wide = [network for network in networks if not is_adapter(network)]
    return wide or (networks if attention else [])


def _walk_past_poolers(node):
    yield node
    for child in node.children:
        if not is_pooler(child):
            yield from _walk_past_poolers(child)
