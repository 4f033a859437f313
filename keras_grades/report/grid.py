"""Components arranged as a table: tower by tower, blocks by roles."""

import math
import os
import re
from typing import NamedTuple

from keras_grades.component import ROLES
from keras_grades.component import Component


class Row(NamedTuple):
    """A line of the grid.

    Attributes:
        label: String, the block; or, on a further line of the same block, the
            module or the layers that it is for.
        cells: Dict from role to `Component`.
        block: List of all `Component` of the block; empty on further lines.
    """

    label: str
    cells: dict[str, Component]
    block: list[Component]


class Tower(NamedTuple):
    """The blocks that make up one part of the model.

    Attributes:
        title: String, may be empty if there is only one.
        roles: List of the roles that occur.
        rows: List of `Row`.
    """

    title: str
    roles: list[str]
    rows: list[Row]


def to_grid(components):
    """Arranges components by tower, block and role.

    Blocks belong to one tower if their paths agree, numbers aside, in the
    first part in which not all paths agree.

    Args:
        components: Sequence of `Component`.

    Returns:
        List of `Tower`.
    """
    blocks = _group(components, lambda c: c.block)
    shared = _common_parents(blocks)
    kinds = _group(blocks, lambda b: _without_number(b.split("/")[len(shared)]))
    towers = []
    for kind, paths in kinds.items():
        parents = _common_parents(paths)
        rows = []
        for path in paths:
            label = "/".join(path.split("/")[len(parents) :])
            rows += _rows(label, path, blocks[path])
        used = {c.role for path in paths for c in blocks[path]}
        roles = [role for role in ROLES if role in used]
        if parents == shared and len(kinds) > 1:
            parents = [*shared, kind]
        towers.append(Tower("/".join(parents), roles, rows))
    return towers


def to_lines(towers):
    """The towers one below the other, as pairs of a label and its `Row`.

    The title of a tower is a line of its own: its `Row` is `None`.
    """
    lines = []
    for tower in towers:
        if tower.title:
            lines.append((tower.title, None))
        lines += [(row.label, row) for row in tower.rows]
    return lines


def used_roles(lines):
    """The roles that occur in some lines, in the order of `ROLES`."""
    used = {role for _, row in lines if row for role in row.cells}
    return [role for role in ROLES if role in used]


def readable(lines, limit):
    """The lines to name if there is room for a limited number of labels.

    Returns:
        List of their places. All of them if they fit; else towers, and blocks
        where that leaves room.
    """
    apart = math.ceil(len(lines) / limit)
    shown = []
    for i, (_, row) in enumerate(lines):
        fits = not shown or i - shown[-1] >= apart
        if row is None:
            if not fits and lines[shown[-1]][1] is not None:
                shown.pop()
            shown.append(i)
        elif fits and (apart == 1 or row.block):
            shown.append(i)
    return shown


def _rows(label, path, block):
    """The lines of a block: more than one if a role occurs more than once.

    A module stays on one line. The first line takes each that still fits, a
    further one is for a single module: a cross-attention, a second
    feed-forward network.
    """
    modules = _group(block, lambda c: c.name.rpartition("/")[0])
    first, others = {}, []
    for module in modules.values():
        for cells in _without_repeats(module):
            if first.keys() & cells.keys():
                others.append(Row(_distinction(cells, path), cells, []))
            else:
                first.update(cells)
    return [Row(label, first, block), *others]


def _without_repeats(module):
    """Splits a module into dicts from role to component."""
    lines = []
    for component in module:
        free = (line for line in lines if component.role not in line)
        line = next(free, None)
        if line is None:
            lines.append(line := {})
        line[component.role] = component
    return lines


def _distinction(cells, path):
    """What a further line shows: a module, or, if that is the block, layers."""
    names = [c.name.removeprefix(f"{path}/") for c in cells.values()]
    return ", ".join(_group(names, lambda n: n.rpartition("/")[0] or n))


def _group(items, key):
    """Dict from key to the list of its items, in order of appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _common_parents(paths):
    # Works on lists of parts just as on strings.
    return os.path.commonprefix([p.split("/")[:-1] for p in paths])


def _without_number(name):
    """`"decoder_layer_3"` -> `"decoder_layer"`."""
    return re.sub(r"_\d+(?=_|$)|\d+$", "", name)
