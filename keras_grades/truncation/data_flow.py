"""The order in which data meets the Transformer blocks of a model.

A functional model tells it by its graph, nested models included. Inside any
other layer the blocks of one list follow on each other, as created, and the
embeddings created before them lie below; of what else it holds the place is
not known.
"""

import dataclasses

from keras_grades.keras_internals.graph import graph_calls
from keras_grades.keras_internals.graph import graph_of
from keras_grades.keras_internals.layers import sublayers


@dataclasses.dataclass(eq=False)
class Call:
    """One use of a layer.

    Attributes:
        variables: List of `keras.Variable`, the trainable ones of the layer.
        blocks: Set of strings, the blocks that have components in it.
        sources: List of `Call` that it takes its input from.
        side_sources: List of `Call` that it takes something else from, as
            cross-attention takes keys and values.
        is_placed: Boolean, whether its place is known.
    """

    variables: list
    blocks: set
    sources: list
    side_sources: list
    is_placed: bool = True


class DataFlow:
    """Which blocks come before which of a model's variables.

    Args:
        model: A built `keras.Model`.
        block_of: Dict from the id of each component's variables to the name
            of the component's block.
    """

    def __init__(self, model, block_of):
        self._block_of = block_of
        self._calls = []
        self.unplaced = []
        self._add_layer(model, [])
        self._below = self._blocks_below()
        # A decoder does not follow on its encoder, but is above it.
        self._above = self._blocks_above(follow_side_sources=False)
        self._all_above = self._blocks_above(follow_side_sources=True)
        # The blocks below each block, where data first meets it.
        self._first = {}
        for call in self._calls:
            for block in call.blocks:
                self._first.setdefault(block, self._below[call])

    def blocks_to_wait_for(self):
        """For each variable the blocks after which it may be frozen.

        They are the blocks below it, its own, and if it is in none, the next
        ones above. What no block follows, such as a head, is left out.

        Returns:
            Dict from the id of a variable to a set of names of blocks.
        """
        blocks, left_out = {}, set()
        for call in self._calls:
            waits_for = self._below[call] | call.blocks | self._next(call)
            is_below_a_block = call.blocks or self._all_above[call]
            for variable in call.variables:
                blocks.setdefault(id(variable), set()).update(waits_for)
                if not (call.is_placed and is_below_a_block):
                    left_out.add(id(variable))
        return {v: b for v, b in blocks.items() if v not in left_out}

    def blocks_above_what_stays(self, may_be_frozen):
        """The blocks above variables that are trained to the end.

        Such as a table of embeddings that is tied to the output: it is used
        below all blocks, and above them, where no block follows.

        Args:
            may_be_frozen: Container of the ids of all other variables, as
                what `blocks_to_wait_for` returns is.

        Returns:
            Dict from the id of such a variable to a set of names of blocks.
        """
        found = {}
        for call in self._calls:
            for variable in call.variables:
                if id(variable) not in may_be_frozen and self._all_above[call]:
                    blocks = found.setdefault(id(variable), set())
                    blocks.update(self._all_above[call])
        return found

    def is_placed(self, variable):
        """Whether it is known where a variable is used."""
        return all(
            call.is_placed
            for call in self._calls
            if any(v is variable for v in call.variables)
        )

    def _next(self, call):
        """The lowest of the blocks above a call that is in none."""
        if call.blocks:
            return set()
        above = self._above[call]
        if not above and not self._below[call]:
            # Such as a table of positions that attention reads.
            above = self._all_above[call]
        return {b for b in above if not (self._first[b] & above) - {b}}

    def _blocks_below(self):
        below = {}
        for call in self._calls:
            below[call] = set().union(
                *(below[source] | source.blocks for source in call.sources)
            )
        return below

    def _blocks_above(self, follow_side_sources):
        above = {call: set() for call in self._calls}
        for call in reversed(self._calls):
            sources = call.sources
            if follow_side_sources:
                sources = sources + call.side_sources
            for source in sources:
                above[source] |= call.blocks | above[call]
        return above

    def _add_layer(self, layer, inputs, variables=None):
        """Adds the calls in a layer.

        Args:
            layer: A layer or operation.
            inputs: List with a list of `Call` for each tensor that it takes.
            variables: List of the `keras.Variable`s that it uses. Defaults to
                `None`, all that are trainable.

        Returns:
            The same for each tensor that it makes, or one list for all.
        """
        sources = _joined(inputs)
        graph = graph_of(layer)
        if graph is not None:
            if len(inputs) != len(graph.inputs):
                inputs = [sources] * len(graph.inputs)
            return self._add_graph(graph, inputs)
        blocks = self._blocks_in(layer)
        if len(blocks) > 1:
            return [self._add_container(layer, sources)]
        n = len(inputs[0]) if blocks and inputs else len(sources)
        if variables is None:
            variables = layer.trainable_variables
        return [[self._add(variables, blocks, sources[:n], sources[n:])]]

    def _add_graph(self, graph, inputs):
        """Adds the calls of a functional model."""
        made_by = {id(t): calls for t, calls in zip(graph.inputs, inputs)}
        for call in graph_calls(graph):
            sources = [made_by.get(id(t), []) for t in call.inputs]
            made = self._add_layer(call.operation, sources, call.variables)
            if len(made) != len(call.outputs):
                made = [_joined(made)] * len(call.outputs)
            made_by |= {id(t): calls for t, calls in zip(call.outputs, made)}
        return [made_by.get(id(t), []) for t in graph.outputs]

    def _add_container(self, layer, sources):
        """Adds the parts of a layer without a graph: a chain for each list."""
        parts = [
            (name, part, self._blocks_in(part))
            for name, part in sublayers(layer)
        ]
        first = [bool(blocks) for _, _, blocks in parts].index(True)
        looked_up = [
            v
            for _, part, _ in parts[:first]
            if "Embedding" in type(part).__name__
            for v in part.trainable_variables
        ]
        chains = {}
        bottom = [self._add(looked_up, set(), sources, [])]
        for name, part, blocks in parts:
            if blocks:
                chain = name.rstrip("0123456789")
                below = chains.get(chain, bottom)
                chains[chain] = _joined(self._add_layer(part, [below]))
        tops = _joined(chains.values())
        placed = {id(v) for _, p, b in parts if b for v in p.variables}
        placed |= {id(v) for v in looked_up}
        others = [v for v in layer.trainable_variables if id(v) not in placed]
        after = {id(v) for _, part, _ in parts[first:] for v in part.variables}
        self.unplaced += [v for v in others if id(v) not in after]
        top = self._add(others, set(), tops, [])
        top.is_placed = False
        return [top]

    def _add(self, variables, blocks, sources, side_sources):
        call = Call(list(variables), blocks, sources, side_sources)
        self._calls.append(call)
        return call

    def _blocks_in(self, layer):
        return {
            self._block_of[id(v)]
            for v in getattr(layer, "trainable_variables", [])
            if id(v) in self._block_of
        }


def _joined(lists):
    return [item for items in lists for item in items]
