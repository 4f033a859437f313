"""Which matrices are a feed-forward network: to another width, and back.

A gated one has two that go up, or one that is twice as wide as what comes
back. Of two the one that says so is the gate, or the first.
"""

import itertools

import keras

from keras_grades.discovery.tree import words


def feed_forward_roles(matrices, widths=None):
    """The role of each matrix that is part of a feed-forward network.

    Args:
        matrices: List of `Matrix` that one layer holds, in order.
        widths: Set of integers, the widths that attention reads. A network
            that starts at one of them comes first. Defaults to `None`, any.

    Returns:
        List of lists, one a network, of pairs of `Matrix` and role.
    """
    candidates = [m for m in matrices if not m.is_convolution]
    found = _find(candidates, lambda m: widths is None or m.width_in in widths)
    if not found and widths is not None:
        found = _find(candidates, lambda m: True)
    return [network(ups, down) for ups, down in found]


def _find(candidates, may_start):
    """Ways up, and the way back, of each network."""
    found, used = [], set()
    for i, down in enumerate(candidates):
        ups = [
            up
            for up in candidates[:i]
            if id(up) not in used and may_start(up) and _goes_up(up, down)
        ]
        if id(down) in used or not ups:
            continue
        for pair in _pair(ups, _run_like(down, candidates[i:])):
            found.append(pair)
            used.update(id(m) for m in [*pair[0], pair[1]])
    left = [m for m in candidates if id(m) not in used]
    _add_late_ups(found, left)
    return found or _back_to_front(candidates, may_start)


def _pair(ups, downs):
    """Several networks, if all ways up were created before all ways back."""
    n = len(downs)
    if len(ups) == n:
        return [([up], down) for up, down in zip(ups, downs)]
    if n > 1 and len(ups) == 2 * n:
        gates = [m for m in ups if _says_gate(m)]
        gates = gates if len(gates) == n else ups[:n]
        others = [m for m in ups if m not in gates]
        return [([g, up], d) for g, up, d in zip(gates, others, downs)]
    return [(ups[-2:], downs[0])]


def _run_like(first, candidates):
    """The first of some matrices, and those after it of the same shape."""
    return list(
        itertools.takewhile(lambda m: _shape(m) == _shape(first), candidates)
    )


def _add_late_ups(found, left):
    """A layer may well create the way back before the second way up."""
    for ups, down in found:
        late = [m for m in left if _shape(m) == _shape(ups[0])]
        if late and len(ups) == 1 and ups[0].width_out == down.width_in:
            ups.append(late[0])
            left.remove(late[0])


def _back_to_front(candidates, may_start):
    for down in candidates:
        ups = [
            m
            for m in candidates
            if m is not down and may_start(m) and _goes_up(m, down)
        ]
        if ups and down.width_in != down.width_out:
            return [(ups[-2:], down)]
    return []


def _shape(matrix):
    return matrix.width_in, matrix.width_out, matrix.is_stack


def _goes_up(up, down):
    return (
        up.is_stack == down.is_stack
        and up.width_in == down.width_out
        and up.width_out in (down.width_in, 2 * down.width_in)
    )


def network(ups, down):
    """Pairs the matrices of one network with their roles."""
    if len(ups) == 2:
        gate = min(ups, key=lambda m: (not _is_activated(m), not _says_gate(m)))
        roles = ["ffn_gate" if m is gate else "ffn_up" for m in ups]
    else:
        fused = ups[0].width_out == 2 * down.width_in
        roles = ["ffn_gate_up" if fused else "ffn_up"]
    return [*zip(ups, roles), (down, "ffn_down")]


def _is_activated(matrix):
    activation = getattr(matrix.node.layer, "activation", None)
    return activation not in (None, keras.activations.linear)


def _says_gate(matrix):
    found = set().union(*map(words, matrix.names))
    return bool(found & {"gate", "gating", "gated"})


def is_adapter(pairs):
    """Whether it does not go wider, and has no gate: if so, it is one only
    beside a feed-forward network that does."""
    down, _ = pairs[-1]
    return (
        len(pairs) == 2
        and not down.is_stack
        and down.width_in <= down.width_out
    )
