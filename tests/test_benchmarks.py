"""The benchmarks run, and report what they measured."""

import importlib
import json
import math
import pathlib

import keras
import pytest

from keras_grades.monitors import MONITORS

BENCHMARKS = pathlib.Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a benchmark on the tiny model; returns the rows of its table."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def rows(name, *arguments, models=("--models", "tiny"), **changes):
        benchmark = importlib.import_module(name)
        for attribute, value in changes.items():
            monkeypatch.setattr(benchmark, attribute, value)
        folder = f"--output={tmp_path}"
        benchmark.main([*models, folder, *arguments])
        backend = keras.backend.backend()
        written = (tmp_path / f"{name}_{backend}.json").read_text("utf-8")
        result = json.loads(written)
        assert result["machine"]["backend"] == backend
        assert result["machine"]["keras"] == keras.__version__
        return result["rows"]

    return rows


def check_ratios(rows, *names):
    for row in rows:
        for name in names:
            assert 0 < row[name] < math.inf
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["reached"] == (
            "yes" if row["ratio"] <= row["target"] else "no"
        )


def test_memory(run):
    rows = {row["monitor"]: row for row in run("memory")}
    # Two blocks of width 16: four projections, and to 64 and back, each with
    # its bias.
    tracked = 2 * (4 * (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16))
    # Each of 12 components: statistic, below, converged_at, frozen_at and 64
    # steps of the trace. Beside them the step, in 4 or 8 bytes, and a learning
    # rate.
    state = 12 * (4 + 64)
    of_monitor = {
        # Two counts, how far it has moved, the cosine over two windows, and
        # 168 entries of the weights at first, of 12 parts of the path, and of
        # 4 of the gradients.
        "transfer": 12 * (2 + 1 + 2 + 168 * (1 + 12 + 4)),
        "gradient": 0,
        "gradient_change": tracked,
        "weight_change": 0,
        "relative_change": 3 * 12,
    }
    assert rows.keys() == of_monitor.keys()
    for monitor, row in rows.items():
        added = 4 * (state + of_monitor[monitor])
        assert row["tracked bytes"] == 4 * tracked
        assert row["added bytes"] - added in (4 + 4, 8 + 4)
        assert row["ratio"] == row["added bytes"] / row["tracked bytes"]


def test_devices_on_paper(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    paper = importlib.import_module("devices_on_paper")
    small, large = paper.MODELS
    # As the cards of the models say.
    assert small.weights == pytest.approx(1.24e9, rel=0.005)
    assert large.weights == pytest.approx(70.6e9, rel=0.005)
    where, sent = paper.sent(small, devices=2, frozen=0)
    # Each of two sends half, to be added up, and then the sums of the other.
    assert sent == 2 * small.weights
    where, less = paper.sent(small, devices=2, frozen=1)
    assert sent - less == 2 * small.tracked
    paper.main()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + 4 and len({row.count("|") for row in rows}) == 1


@pytest.mark.long
def test_gpu(run):
    """In small, on the CPU."""
    model = "tiny" if keras.backend.backend() == "jax" else "tiny decoder"
    rows = run("gpu", "--models", model, "--rounds=2", TURN=2)
    plain, *others = rows
    assert len(others) == 4
    assert plain["run"] == "plain"
    assert plain["of plain"] == 1 and plain["reads a step"] == 0
    for row in others:
        assert 0 < row["ms a step"] < math.inf and row["first step, s"] > 0
        assert row["bytes a read"] > 0 < row["reads a step"] <= 2
        assert 0 < row["that wait"] < row["reads a step"]
    if keras.backend.backend() == "jax":
        watched, truncated = others[1], others[-1]
        assert plain["peak, MB"] <= watched["peak, MB"]
        assert truncated["peak, MB"] < watched["peak, MB"]


@pytest.mark.long
def test_overhead(run):
    rows = run("overhead", "--rounds=3")
    check_ratios(rows, "ratio")
    monitors = [
        "transfer",
        "gradient",
        "gradient_change",
        "weight_change",
        "relative_change",
    ]
    assert [row["monitor"] for row in rows] == monitors


@pytest.mark.long
def test_first_step(run):
    rows = run("first_step", "--rounds=1")
    assert [row["monitor"] for row in rows] == list(MONITORS)
    for row in rows:
        added = row["plain s"] * (row["ratio"] - 1)
        assert row["added s"] == pytest.approx(added)


@pytest.mark.long
@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="it is JAX that dispatches ahead"
)
def test_in_flight(run):
    plain, *watched = run("in_flight", "--rounds=1", STEPS=220)
    assert plain["method"] == "plain" and len(watched) == 3
    for row in (plain, *watched):
        assert 0 <= row["low"] <= row["in flight"] <= row["high"] <= 64
        assert row["empty"] <= 1


@pytest.mark.long
@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="only JAX compiles ahead"
)
def test_compile_ahead(run):
    needed, beside = run("compile_ahead", "--rounds=1")
    assert needed["rebuilds"] == beside["rebuilds"] == 1
    for row in (needed, beside):
        assert 0 < row["steps at a rebuild"] < math.inf


@pytest.mark.long
def test_frozen_step(run):
    rows = run("frozen_step", "--rounds=3")
    check_ratios(rows, "ratio", "of a plain step")
    assert len(rows) == 3


@pytest.mark.long
def test_recompile_policy(run):
    rows = run("recompile_policy", "--steps", "20", "--schedules", "even")
    assert len(rows) == 1
    row = rows[0]
    always, never = row["always s"], row["never s"]
    best = never if always == "given up" else min(always, never)
    assert row["auto / best"] == row["auto s"] / best
    assert row["auto / plain"] == row["auto s"] / row["plain s"]


@pytest.mark.long
def test_scaling(run):
    rows = run(
        "scaling", "--rounds=1", models=(), BLOCKS={6: 1, 12: 2}, STEPS=100
    )
    assert [row["components"] for row in rows] == [6, 12]
    for row in rows:
        assert 0 < row["step us"] <= row["look us"]
        assert row["find s"] > 0
