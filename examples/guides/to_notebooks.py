"""Writes each guide as a notebook, executed, next to its source.

    python examples/guides/to_notebooks.py
    python examples/guides/to_notebooks.py fine_tune_a_classifier

The guides are in the format of keras.io: a header, then text in strings of
their own between the code. A notebook remembers the source that it was made
of, so that a test can tell when it is out of date.
"""

import ast
import hashlib
import pathlib
import sys

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from nbformat.v4 import new_markdown_cell
from nbformat.v4 import new_notebook

FOLDER = pathlib.Path(__file__).parent
# What other packages say of GPUs, widgets and threads.
NOISE = (
    "absl::InitializeLog()",
    "oneDNN",
    "cuda drivers",
    "prefetch_buffer_size",
    "tqdm",
)
HEADER = (
    "Title",
    "Author",
    "Date created",
    "Last modified",
    "Description",
    "Accelerator",
)


def guides():
    """The paths of all guides."""
    others = {pathlib.Path(__file__).name}
    return [p for p in sorted(FOLDER.glob("*.py")) if p.name not in others]


def cells(source):
    """Splits a guide.

    Args:
        source: String.

    Returns:
        Dict of the header, and a list of pairs `(is_text, string)`.
    """
    lines = source.splitlines()
    header, parts, code_from = None, [], 0
    for node in ast.parse(source).body:
        if not _is_text(node):
            continue
        parts.append((False, "\n".join(lines[code_from : node.lineno - 1])))
        code_from, text = node.end_lineno, node.value.value.strip()
        if header is None:
            header = dict(line.split(": ", 1) for line in text.splitlines())
        else:
            parts.append((True, text))
    parts.append((False, "\n".join(lines[code_from:])))
    parts = [(is_text, text.strip("\n")) for is_text, text in parts]
    return header, [part for part in parts if part[1]]


def _is_text(node):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def to_notebook(source):
    """The notebook of a guide, not executed."""
    header, parts = cells(source)
    title = "\n\n".join(
        [
            f"# {header['Title']}",
            "<br>".join(f"**{name}:** {header[name]}" for name in HEADER[1:]),
        ]
    )
    made = [new_markdown_cell(title)]
    for is_text, text in parts:
        made.append((new_markdown_cell if is_text else new_code_cell)(text))
    for i, cell in enumerate(made):
        cell.id = f"cell-{i}"  # Not at random: a new run is a small change.
    notebook = new_notebook(cells=made)
    notebook.metadata.update(
        kernelspec={
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        source_sha256=digest(source),
    )
    return notebook


def _is_noise(output):
    text = output.get("text", "")
    return output.get("name") == "stderr" and all(
        any(words in line for words in NOISE)
        for line in text.splitlines()
        if line.strip()
    )


def digest(source):
    return hashlib.sha256(source.encode()).hexdigest()


def main(names):
    for path in guides():
        if names and path.stem not in names:
            continue
        print(f"Running {path.name}", flush=True)
        notebook = to_notebook(path.read_text(encoding="utf-8"))
        client = NotebookClient(
            notebook,
            timeout=None,
            coalesce_streams=True,
            resources={"metadata": {"path": FOLDER}},
        )
        client.execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # Times.
            if cell.cell_type == "code":
                cell.outputs = [o for o in cell.outputs if not _is_noise(o)]
        nbformat.write(notebook, path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
