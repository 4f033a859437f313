"""The main job in small: `make demo` on real articles, a pretrained model.

With a tau of its own: 60 steps are few for `GradES()`.
"""

import contextlib
import importlib
import io
import json
import pathlib
import re

import numpy as np
import pytest
from markers import marks_long_on
from matplotlib import image

pytestmark = marks_long_on("jax", "tensorflow")

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
STEPS = 60
GRACE_STEPS = STEPS // 2
# Six blocks with query, key, value, output and two feed-forward matrices.
COMPONENTS = 6 * 6
TAU = 3e-5
# Among the articles to test on, the largest topic has this share.
CHANCE = 126 / 531


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the script prints, and the folder it writes to."""
    folder = tmp_path_factory.mktemp("runs") / "text_classifier"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        example = importlib.import_module("finetune_text_classifier")
        with contextlib.redirect_stdout(printed):
            example.main(
                [
                    "--examples=320",
                    "--batch-size=16",
                    "--epochs=3",
                    "--sequence-length=32",
                    "--monitor=weight_change",
                    "--norm=mean_l1",
                    f"--tau={TAU}",
                    "--alpha=0.5",
                    f"--output={folder}",
                ]
            )
    return printed.getvalue(), folder


@pytest.fixture(scope="module")
def report(run):
    _, folder = run
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_freezes_everything_and_stops_early(report):
    assert report["total_steps"] == STEPS
    assert GRACE_STEPS <= report["stopped_step"] == report["steps"] < STEPS
    freeze_steps = [c["frozen_at"] for c in report["components"]]
    assert len(freeze_steps) == COMPONENTS
    assert min(freeze_steps) >= GRACE_STEPS
    assert max(freeze_steps) <= report["stopped_step"]


def test_report_follows_from_its_trace(report):
    """A component froze at the first step below tau after the grace period."""
    statistic = np.array(report["trace"]["statistic"], "float32")
    steps = np.array(report["trace"]["step"])
    below = (statistic < np.float32(TAU)) & (steps >= GRACE_STEPS)[:, None]
    expected = steps[below.argmax(axis=0)]
    frozen_at = [c["frozen_at"] for c in report["components"]]
    np.testing.assert_array_equal(frozen_at, expected)


def test_prints_what_it_writes(run, report):
    printed, _ = run
    stopped = report["stopped_step"]
    assert f"stopped at step {stopped} of {STEPS}" in printed
    assert f"{COMPONENTS} of {COMPONENTS} components frozen" in printed
    left = f"Plain fit() would go on for {STEPS - stopped} steps"
    assert left in printed
    assert all(len(line) <= 80 for line in table_lines(printed))
    steps, accuracy = re.search(
        r"^GradES .* s +(\d+) +(0\.\d+|1\.0+)$", printed, re.MULTILINE
    ).groups()
    assert int(steps) == stopped
    assert float(accuracy) > CHANCE + 0.3


def table_lines(printed):
    """What is printed, without what a terminal wraps, and a folder's name."""
    others = ("GradES: ", "Wrote ")
    return [x for x in printed.splitlines() if not x.startswith(others)]


def test_draws_a_picture(run):
    _, folder = run
    pixels = image.imread(folder / "report.png")
    height, width = pixels.shape[:2]
    assert min(height, width) > 200
    ink = (pixels[..., :3] < 0.9).any(axis=-1).mean()
    assert 0.01 < ink < 0.9
