"""Transformers written as one functional graph, without a layer a block.

There the edges of the graph tell what belongs together: attention is where
queries meet keys and values, a feed-forward network runs from one residual
sum to the next, and its block goes back to the network before.
"""

import collections

import keras

from keras_grades.discovery.feed_forward import network
from keras_grades.discovery.tree import is_normalization
from keras_grades.keras_internals.graph import graph_calls

# What operations that attend take.
ARGUMENTS = {
    "Attention": ("query", "value", "key"),
    "AdditiveAttention": ("query", "value", "key"),
    "DotProductAttention": ("query", "key", "value"),
}
PRODUCTS = ("Dot", "Einsum", "Matmul")


class Graph:
    """The edges of a functional model.

    Args:
        node: `Node` of the model.
        graph: The functional model.
    """

    def __init__(self, node, graph):
        self._node = node
        self._sources = _sources(graph)
        self._consumers = {operation: [] for operation in self._sources}
        for operation, sources in self._sources.items():
            for source in sources:
                self._consumers[source].append(operation)
        self._position = {o: i for i, o in enumerate(self._sources)}

    def attention_roles(self):
        """Attention whose projections the model itself holds.

        Returns:
            List of lists, one an attention, of pairs of `Matrix` and role.
        """
        matrix_of = self._by_operation(self._node.direct_matrices)
        found, used = [], set()
        for operation in self._sources:
            inputs, end = self._meeting(operation)
            pairs = _input_roles(
                {
                    role: self._matrices([source], self._sources, matrix_of)
                    for role, source in inputs.items()
                }
            )
            if pairs:
                pairs += self._way_out(pairs, end, matrix_of)
                found.append([p for p in pairs if p[0] not in used])
                used.update(matrix for matrix, _ in pairs)
        return [pairs for pairs in found if pairs]

    def _meeting(self, operation):
        """Where the inputs of attention come from, and where they end."""
        sources = self._sources[operation]
        arguments = ARGUMENTS.get(type(operation).__name__)
        if arguments and len(sources) > 1:
            inputs = dict(zip(arguments, sources))
            return {"key": inputs["value"]} | inputs, operation
        if not _is_softmax(operation):
            return {}, None
        scores = self._products(operation, self._sources)
        ends = self._products(operation, self._consumers)
        if not scores or not ends or len(self._sources[scores[0]]) < 2:
            return {}, None
        query, key = self._sources[scores[0]][:2]
        for value in self._sources[ends[0]]:
            if not self._nearest(
                [value], self._sources, lambda o: o is operation, _has_weights
            ):
                return {"query": query, "key": key, "value": value}, ends[0]
        return {}, None

    def _products(self, operation, edges):
        """The products that are met first, nearest first."""
        return [
            *self._nearest(edges[operation], edges, _is_product, _has_weights)
        ]

    def _way_out(self, inputs, end, matrix_of):
        """The first projection after attention, if it reads the values."""
        widths = {m.width_out for m, _ in inputs}
        widths |= {m.width_in for m, role in inputs if role == "qkv"}
        after = self._matrices(self._consumers[end], self._consumers, matrix_of)
        return [
            (matrix, "attention_output")
            for matrix in after[-1:]
            # What reads a pooled sequence is a head.
            if matrix.width_in in widths
            and len(self._operation(matrix).input.shape) > 2
        ]

    def feed_forward_roles(self, matrices):
        """Feed-forward networks.

        Args:
            matrices: List of `Matrix` that are no attention.

        Returns:
            List of lists, one a network, of pairs of `Matrix` and role.
        """
        matrix_of = self._by_operation(matrices)
        found, used = [], set()
        for operation, sources in self._sources.items():
            if not _is_sum(operation):
                continue
            for down in self._matrices(sources, self._sources, matrix_of):
                pairs = self._network(down, matrix_of)
                if pairs and down not in used:
                    found.append(pairs)
                    used.update(matrix for matrix, _ in pairs)
        return found

    def _network(self, down, matrix_of):
        """What leads from its own width to a matrix, without a sum."""
        way = [down]
        while True:
            sources = self._sources[self._operation(way[0])]
            ups = self._matrices(sources, self._sources, matrix_of)
            fit = [
                m
                for m in ups
                if m not in way
                and m.width_out in (way[0].width_in, 2 * way[0].width_in)
            ]
            if not fit or len(fit) < len(ups):
                return []
            if all(up.width_in == down.width_out for up in ups):
                return network(ups[:2], way[:-1], down)
            way.insert(0, ups[0])

    def blocks(self, attention, networks):
        """Divides what the model holds into blocks.

        Args:
            attention: List of lists of pairs of `Matrix` and role.
            networks: The same, of feed-forward networks.

        Returns:
            List of pairs, one a block, of such lists.
        """
        attention_at = collections.defaultdict(list)
        for pairs in attention:
            for matrix, _ in pairs:
                attention_at[self._operation(matrix)].append(pairs)
        blocks, block_of, ends = [], {}, {}
        networks = [n for n in networks if self._reads_sequences(n)]
        for pairs in sorted(
            networks, key=lambda n: self._position[self._end(n)]
        ):
            end = self._end(pairs)
            met = self._nearest(
                self._sources[end],
                self._sources,
                lambda o: o in attention_at or o in ends,
            )
            read = [unit for o in met for unit in attention_at.get(o, ())]
            known = [block_of[id(u)] for u in read if id(u) in block_of]
            if not read and met:
                # It follows on another network.
                known = [ends[max(met, key=self._position.get)]]
            if not known:
                blocks.append(([], []))
            block = (known or blocks)[-1]
            for unit in read:
                if id(unit) not in block_of:
                    block_of[id(unit)] = block
                    block[0].append(unit)
            block[1].append(pairs)
            ends.setdefault(end, block)
        alone = [pairs for pairs in attention if id(pairs) not in block_of]
        return blocks + [([pairs], []) for pairs in alone]

    def _reads_sequences(self, pairs):
        """Whether a network is in the graph, and not behind a pooler."""
        operation = self._operation(pairs[-1][0])
        if operation not in self._sources:
            return False  # It is another part of the model.
        tensors = keras.tree.flatten(operation.input)
        return any(len(t.shape) > 2 for t in tensors)

    def _end(self, pairs):
        """The sum that takes in what a network makes, or its last matrix."""
        last = self._operation(pairs[-1][0])
        sums = self._nearest(self._consumers[last], self._consumers, _is_sum)
        return min(sums, key=self._position.get, default=last)

    def _matrices(self, starts, edges, matrix_of):
        """The matrices that are reached through nothing with weights.

        Those with the longest way come first: of two ways up, the gate is
        the one with an activation on its way.
        """
        found = self._nearest(
            starts,
            edges,
            matrix_of.__contains__,
            lambda o: _is_sum(o) or _has_weights(o),
        )
        return [matrix_of[o] for o in sorted(found, key=lambda o: -found[o])]

    def _nearest(self, starts, edges, is_wanted, is_boundary=None):
        """Dict from each wanted operation, first on a way, to its distance."""
        found, queue, seen = {}, collections.deque(), set()
        queue.extend((0, operation) for operation in starts)
        while queue:
            distance, operation = queue.popleft()
            if operation in seen:
                continue
            seen.add(operation)
            if is_wanted(operation):
                found[operation] = distance
            elif is_boundary is None or not is_boundary(operation):
                queue.extend((distance + 1, o) for o in edges[operation])
        return found

    def _by_operation(self, matrices):
        """The matrices by the operation of the graph that each belongs to."""
        held = [m for m in matrices if m.node is not self._node]
        return {self._operation(matrix): matrix for matrix in held}

    def _operation(self, matrix):
        node = matrix.node
        while node.parent is not self._node:
            node = node.parent
        return node.layer


def _sources(graph):
    """The operations that feed each operation, in the order of the model."""
    sources = {operation: [] for operation in graph.operations}
    # The operation that makes each tensor; inputs have an operation, too.
    maker = {
        id(tensor): operation
        for operation in graph.operations
        if isinstance(operation, keras.layers.InputLayer)
        for tensor in keras.tree.flatten(operation.output)
    }
    for call in graph_calls(graph):
        sources[call.operation] += [maker[id(t)] for t in call.inputs]
        maker |= {id(t): call.operation for t in call.outputs}
    return sources


def _input_roles(reached):
    """Pairs what reaches the inputs of attention with its role.

    Args:
        reached: Dict from role to list of `Matrix`.
    """
    if not all(reached.values()):
        return []
    roles = collections.defaultdict(list)
    for role, matrices in reached.items():
        for matrix in matrices:
            roles[matrix].append(role)
    # A tensor that is attended as it is has no projection, unless it is split.
    if any(
        len(of) == 3 and matrix.width_out != 3 * matrix.width_in
        for matrix, of in roles.items()
    ):
        return []
    return [(m, of[0] if len(of) == 1 else "qkv") for m, of in roles.items()]


def _has_weights(operation):
    # `variables` would count the seed of a `Dropout`.
    return (
        isinstance(operation, keras.Layer)
        and bool(operation.weights)
        and not is_normalization(operation)
    )


def _is_sum(operation):
    return type(operation).__name__ == "Add"


def _is_product(operation):
    return type(operation).__name__ in PRODUCTS


def _is_softmax(operation):
    softmax = keras.activations.softmax
    return type(operation).__name__ == "Softmax" or (
        isinstance(operation, keras.layers.Activation)
        and operation.activation is softmax
    )
