"""The guides in small, and their notebooks: run, in order, and up to date."""

import ast
import contextlib
import importlib
import io
import pathlib
import subprocess
import sys

import keras
import nbformat
import numpy as np
import pytest
from markers import long_on

GUIDES = pathlib.Path(__file__).parents[1] / "examples/guides"
# What to run, and with what in place of its settings.
SMALL = {
    "a_monitor_of_your_own": {"EPOCHS": 3},
    "fine_tune_a_classifier": {
        "EXAMPLES": 32,
        "EPOCHS": 2,
        "SEQUENCE_LENGTH": 8,
    },
    "lora_on_a_causal_lm": {"SEQUENCES": 64, "LENGTH": 16, "EPOCHS": 2},
    "resume_after_an_interruption": {
        "EPOCHS": 4,
        "STOP_AFTER": 2,
        "EXAMPLES": 320,
    },
    "thresholds_of_your_own": {"EXAMPLES": 256, "EPOCHS": 3},
}
# On several devices: it must be alone in its process, and is for JAX.
ALONE = {"several_devices": {"EXAMPLES": 128, "EPOCHS": 2}}


@pytest.fixture
def converter(monkeypatch):
    monkeypatch.syspath_prepend(GUIDES)
    return importlib.import_module("to_notebooks")


def names():
    return {path.stem for path in GUIDES.glob("*.py")} - {"to_notebooks"}


def with_settings(source, settings):
    """A guide with other values for some names, set at its top level."""
    tree, left = ast.parse(source), dict(settings)
    for node in tree.body:
        name = ast.unparse(node).partition(" = ")[0]
        if isinstance(node, ast.Assign) and name in left:
            value = ast.Constant(left.pop(name))
            node.value = ast.copy_location(value, node.value)
    assert not left, f"The guide does not set {left}."
    return tree


def run(name, monkeypatch):
    """What a guide leaves behind: its names, and what it prints."""
    path = GUIDES / f"{name}.py"
    tree = with_settings(path.read_text(encoding="utf-8"), SMALL[name])
    monkeypatch.syspath_prepend(GUIDES.parent)
    # `register_keras_serializable` is told the module.
    names, printed = {"__name__": name}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, path, "exec"), names)
    return names, printed.getvalue()


def test_there_is_a_test_for_each():
    assert names() == {*SMALL, *ALONE}


@long_on("jax", "tensorflow")
def test_a_classifier(monkeypatch):
    guide, printed = run("fine_tune_a_classifier", monkeypatch)
    assert guide["grades"].stopped_step == 3  # The plan has 4.
    assert "transformer_layer_0/self_attention_layer/query query" in printed
    assert "epoch 2: statistic 0.0000, frozen 100%" in printed
    # As KerasHub compiles it.
    assert isinstance(guide["classifier"].optimizer, keras.optimizers.Adam)


@long_on("jax", "tensorflow")
def test_lora(monkeypatch):
    guide, printed = run("lora_on_a_causal_lm", monkeypatch)
    roles = [c.role for c in guide["grades"].components]
    assert roles == ["query", "value"] * 4
    assert "['lora_kernel_a', 'lora_kernel_b']" in printed
    assert guide["after"] < guide["before"]
    assert guide["grades"].stopped_step == 8


@long_on("jax", "tensorflow")
def test_thresholds(monkeypatch):
    guide, printed = run("thresholds_of_your_own", monkeypatch)
    assert not guide["measured"].report.frozen
    assert guide["grades"].report.frozen
    assert min(c.frozen_at for c in guide["grades"].report.frozen) >= 8
    assert "None has converged" in printed  # By the rule of the paper.
    towers = {c.name.split("_")[0] for c in guide["grades"].components}
    assert towers == set(guide["tau"])


@long_on("jax", "tensorflow")
def test_a_monitor(monkeypatch):
    guide, _ = run("a_monitor_of_your_own", monkeypatch)
    statistic = guide["grades"].trace["statistic"]
    # At the first step both means are that of one gradient.
    assert statistic.shape == (171, 12)
    assert statistic[0] == pytest.approx(1, abs=1e-4)
    assert np.nanmax(statistic[100:]) < 0.6


@long_on("jax", "tensorflow")
def test_resuming(monkeypatch):
    # It asserts by itself that resumed runs freeze as the whole one.
    guide, printed = run("resume_after_an_interruption", monkeypatch)
    assert guide["freeze_steps"](guide["whole"]) == [40] * 6
    assert printed.count("goes on after step 20 of 40") == 3
    assert "steps since the first call: 10" in printed
    assert "Adam True" in printed


@pytest.mark.long
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="It is for JAX.")
def test_several_devices(tmp_path):
    path = GUIDES / "several_devices.py"
    tree = with_settings(
        path.read_text(encoding="utf-8"), ALONE["several_devices"]
    )
    small = tmp_path / path.name
    small.write_text(ast.unparse(tree), encoding="utf-8")
    lines = subprocess.run(
        [sys.executable, small], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "'cpu:3'" in lines[0]
    data_parallel, model_parallel = lines[-2:]
    # The plan has 8 steps, and the lower block settles first.
    assert data_parallel == model_parallel == str([7] * 7 + [8] * 7)
    assert any("('batch', 'model')" in line for line in lines)


GUIDE = '''"""
Title: A guide
Author: Somebody
Date created: 2026/01/02
Last modified: 2026/03/04
Description: What it shows.
Accelerator: None
"""

"""
## First

Some text.
"""

import os

x = """no text"""


def f():
    """No text either."""
    return x


"""
The end.
"""
'''


def test_a_guide_becomes_a_notebook(converter):
    notebook = converter.to_notebook(GUIDE)
    nbformat.validate(notebook)
    kinds = [(cell.cell_type, cell.source) for cell in notebook.cells]
    title, first, code, end = kinds
    assert title[0] == "markdown" and title[1].startswith("# A guide\n")
    assert "**Description:** What it shows." in title[1]
    assert first == ("markdown", "## First\n\nSome text.")
    assert code[0] == "code" and code[1].startswith("import os\n\nx = ")
    assert code[1].endswith('"""No text either."""\n    return x')
    assert end == ("markdown", "The end.")


@pytest.mark.parametrize("name", sorted(names()))
def test_its_notebook_is_up_to_date(name, converter):
    source = (GUIDES / f"{name}.py").read_text(encoding="utf-8")
    notebook = nbformat.read(GUIDES / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.source_sha256 == converter.digest(source), (
        f"{name}.ipynb is older than its source: run "
        f"`python examples/guides/to_notebooks.py {name}`."
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not any(o.output_type == "error" for o in outputs)
    assert (GUIDES / f"{name}.ipynb").stat().st_size < 400_000
