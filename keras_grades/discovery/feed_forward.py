"""Which matrices are a feed-forward network: to another width, and back.

A gated one has two that go up, or one that is twice as wide as the way back
reads. Of two the one that is activated is the gate, else the one that says
so, else the first. A matrix in between, from hidden layer to hidden layer,
counts as another way up.

Where the inner width is the hidden width, a square matrix may be a way up or
the way back: then activations tell, names, and last the order of creation.
"""

import keras

from keras_grades.discovery.tree import PROJECTIONS
from keras_grades.discovery.tree import words

WAY_UP = {"expand", "gate", "gated", "gating", "in", "inner", "input"}
WAY_UP |= {"intermediate", "up", "wi"}
WAY_BACK = {"back", "contract", "down", "out", "output", "wo"}


def feed_forward_roles(matrices, widths=()):
    """The role of each matrix that is part of a feed-forward network.

    Args:
        matrices: List of `Matrix` that one layer holds, in order. Those that
            mix neighbours, too, are left out.
        widths: Set of integers, the widths that attention reads. Networks
            that start at one of them go before all others. Defaults to `()`.

    Returns:
        List of lists, one a network, of pairs of `Matrix` and role.
    """
    candidates = [m for m in matrices if not m.is_convolution]
    found = _find(candidates, lambda m: m.width_in in widths)
    found = found or _find(candidates, lambda m: True)
    return [network(*parts) for parts in found]


def feed_forward_matrices(matrices, widths=()):
    """The set of the matrices that are part of a feed-forward network.

    Args:
        matrices, widths: As in `feed_forward_roles`.
    """
    return {
        matrix
        for network in feed_forward_roles(matrices, widths)
        for matrix, _ in network
    }


def convolution_roles(matrices, widths):
    """The same for networks that mix neighbours, too, as in FastSpeech.

    Args:
        matrices: List of `Matrix` that one layer holds, in order.
        widths: Set of integers, the widths that attention reads. A network
            starts at one of them.

    Returns:
        List of lists, one a network, of pairs of `Matrix` and role.
    """
    along_time = [
        m for m in matrices if isinstance(m.node.layer, keras.layers.Conv1D)
    ]
    found = _find(along_time, lambda m: m.width_in in widths)
    return [network(*parts) for parts in found]


def _find(candidates, may_start):
    """The ways up, the matrices in between and the way back of each network."""
    found, used = [], set()
    for i, down in enumerate(candidates):
        if not _may_lead_back(down, candidates[i + 1 :]):
            continue
        free = [m for m in candidates[: i + 1] if m not in used]
        ups = [
            m for m in free[:-1] if may_start(m) and _way(m, free) is not None
        ]
        if down not in used and ups:
            # A gate is multiplied with a tensor of its width.
            ups = [m for m in ups if _shape(m) == _shape(ups[-1])][-2:]
            if len(ups) == 2 and _is_chain(*ups):
                ups = ups[:1]
            between = _way(ups[-1], free)
            found.append((ups, between, down))
            used.update([*ups, *between, down])
    left = [m for m in candidates if m not in used]
    _add_late_ups(found, left)
    return found or _back_to_front(candidates, may_start)


def _may_lead_back(matrix, later):
    """Whether a matrix may be the way back of a network.

    Args:
        matrix: `Matrix`.
        later: List of the `Matrix` that were created after it.
    """
    if not _is_square(matrix) or _says(matrix, WAY_BACK, not_in=WAY_UP):
        return True
    if _leads_up(matrix):
        return False
    alike = [m for m in later if _shape(m) == _shape(matrix)]
    if alike and _leads_up(alike[0]):
        return True  # The next network begins.
    # Nothing tells: a network for each two, the last for three.
    return len(alike) % 2 == 0


def _leads_up(matrix):
    """Whether a square matrix is known to be no way back."""
    return _is_activated(matrix) or _says(matrix, WAY_UP, not_in=WAY_BACK)


def _is_chain(first, second):
    """Whether two square ways up follow each other: a gate is alone active."""
    is_active = _is_activated(first) and _is_activated(second)
    return _is_square(first) and is_active


def _is_square(matrix):
    return matrix.width_in == matrix.width_out


def _says(matrix, these, not_in=frozenset()):
    """Whether a name tells one of these words, and none of the others."""
    found = set().union(*map(words, matrix.names))
    return bool(found & these) and not found & not_in


def _way(up, matrices):
    """The hidden matrices between a way up and the last one, the way back.

    In the order in which they were created each reads what the one before
    makes. It is None if they do not meet.
    """
    down = matrices[-1]
    if up.width_in != down.width_out or up.is_stack != down.is_stack:
        return None
    for width in (up.width_out, up.width_out / 2):
        way = []
        for matrix in matrices[matrices.index(up) + 1 : -1]:
            if matrix.width_in == width and matrix.is_stack == up.is_stack:
                way.append(matrix)
                width = matrix.width_out
        if width == down.width_in:
            return way
    return None


def _add_late_ups(found, left):
    """A layer may well create the way back before the second way up."""
    for ups, between, down in found:
        late = [m for m in left if _shape(m) == _shape(ups[0])]
        reads = [*between, down][0].width_in
        if late and len(ups) == 1 and ups[0].width_out == reads:
            ups.append(late[0])
            left.remove(late[0])


def _back_to_front(candidates, may_start):
    for down in candidates:
        ups = [
            m
            for m in candidates
            if m is not down and may_start(m) and _way(m, [m, down]) is not None
        ]
        says_back = _says(down, WAY_BACK, not_in=WAY_UP)
        if ups and (says_back or not _is_square(down)):
            return [(ups[-2:], [], down)]
    return []


def _shape(matrix):
    return matrix.width_in, matrix.width_out, matrix.is_stack


def network(ups, between, down):
    """Pairs the matrices of one network with their roles."""
    if len(ups) == 2:
        gate = min(ups, key=lambda m: (not _is_activated(m), not _says_gate(m)))
        roles = ["ffn_gate" if m is gate else "ffn_up" for m in ups]
    else:
        reads = [*between, down][0].width_in
        roles = ["ffn_gate_up" if ups[0].width_out == 2 * reads else "ffn_up"]
    return [
        *zip(ups, roles),
        *((m, "ffn_up") for m in between),
        (down, "ffn_down"),
    ]


def _is_activated(matrix):
    layer = matrix.node.layer
    if not isinstance(layer, PROJECTIONS):
        return False  # It is the whole layer's, of several matrices.
    activation = getattr(layer, "activation", None)
    return activation not in (None, keras.activations.linear)


def _says_gate(matrix):
    return _says(matrix, {"gate", "gating", "gated"})


def is_adapter(pairs):
    """Whether its inner width is no greater than its outer, without a gate.

    It is an adapter only next to a feed-forward network that goes wider.
    """
    down, _ = pairs[-1]
    return not down.is_stack and all(
        role != "ffn_gate" and matrix.width_in <= down.width_out
        for matrix, role in pairs
    )


def is_bottleneck(pairs):
    """Whether its inner width is less than its outer one."""
    down, _ = pairs[-1]
    return down.width_in < down.width_out
