"""The other examples in small: LoRA on text, a Vision Transformer."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import keras_hub
import pytest
from markers import long_on

from keras_grades.policy import FreezePolicy

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
HUGE, TINY = 1e30, 1e-30


def run(monkeypatch, name, folder, *arguments):
    """What a script prints, and the report that it writes."""
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module(name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        example.main([*arguments, f"--output={folder}"])
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (folder / "report.png").stat().st_size > 10_000
    return printed.getvalue(), report


def frozen(report):
    return {c["name"]: c["frozen_at"] for c in report["components"]}


@long_on("jax", "tensorflow")
def test_they_do_not_tell_of_missing_gpus():
    code = (
        "import quiet; import tensorflow as tf; import sys, keras_hub; "
        "tf.constant(1) + 1; sys.stderr.write('This is kept.')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GPU" not in done.stderr and "oneDNN" not in done.stderr
    assert "This is kept." in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "finetune_text_classifier",
        "finetune_image_classifier",
        "finetune_causal_lm_lora",
    ],
)
def test_they_need_no_tau(monkeypatch, name):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module(name)
    grades = example.runs.grades(example.parse_arguments([]))
    assert grades.policy == FreezePolicy(norm="mean_l1")
    arguments = ["--tau=1e-5", "--monitor=weight_change", "--patience=2"]
    grades = example.runs.grades(example.parse_arguments(arguments))
    assert grades.policy == FreezePolicy(
        tau=1e-5,
        alpha=0.5,
        monitor="weight_change",
        norm="mean_l1",
        patience=2,
    )


@long_on("jax", "tensorflow")
def test_image_classifier(monkeypatch, tmp_path):
    printed, report = run(
        monkeypatch,
        "finetune_image_classifier",
        tmp_path,
        "--epochs=2",
        "--batch-size=200",
        # Attention and feed-forward networks by themselves.
        f"--tau={json.dumps({'mha': HUGE, 'mlp': TINY})}",
    )
    # 4000 images in batches of 200.
    assert report["steps"] == report["total_steps"] == 2 * 20
    # Four blocks with query, key, value, output and two of the network.
    steps = frozen(report)
    assert len(steps) == 4 * 6
    assert {n: s for n, s in steps.items() if s} == {
        n: 20 for n in steps if "mha" in n
    }
    assert sum(s is not None for s in steps.values()) == 4 * 4
    assert re.search(r"test accuracy (0\.\d+|1\.0+)$", printed, re.MULTILINE)


LORA = (
    "--examples=64",
    "--sequence-length=32",
    "--batch-size=16",
    "--epochs=4",
    "--rank=2",
    f"--tau={HUGE}",
)


@long_on("tensorflow")
@pytest.mark.parametrize(
    "more",
    [
        ["--pretrain-epochs=1"],
        pytest.param(
            ["--pretrain-epochs=0", "--quantize=int8"], marks=pytest.mark.long
        ),
    ],
)
def test_lora(monkeypatch, tmp_path, more):
    printed, report = run(
        monkeypatch, "finetune_causal_lm_lora", tmp_path, *LORA, *more
    )
    check_lora(printed, report, blocks=4)


def check_lora(printed, report, blocks):
    """All pairs freeze at the end of the grace period, and training stops."""
    steps = frozen(report)
    assert report["total_steps"] == 4 * 4
    # LoRA is on the queries and values.
    roles = [c["role"] for c in report["components"]]
    assert sorted(roles) == ["query"] * blocks + ["value"] * blocks
    assert set(steps.values()) == {8}
    assert report["stopped_step"] == 8
    before, after = re.search(
        r"articles: ([\d.]+) before, ([\d.]+) after", printed
    ).groups()
    assert float(before) != float(after)


@pytest.fixture
def gpt2():
    """A small GPT-2 with a vocabulary of single letters, but for one."""
    letters = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = [*letters, "th", "<|endoftext|>"]
    vocabulary = {t: i for i, t in enumerate(tokens)}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary, ["t h"])
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(vocabulary),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=64,
        max_sequence_length=32,
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer)
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor)


@pytest.mark.long
@pytest.mark.parametrize("format", ["keras_hub", "hugging_face"])
def test_lora_on_a_preset(monkeypatch, tmp_path, gpt2, format):
    preset = str(tmp_path / "preset")
    if format == "keras_hub":
        gpt2.save_to_preset(preset)
    else:
        gpt2.export_to_transformers(preset)
        files = {file.name for file in pathlib.Path(preset).iterdir()}
        assert {"config.json", "model.safetensors", "vocab.json"} <= files
        # KerasHub leaves out one line that Hugging Face always writes.
        config = pathlib.Path(preset) / "config.json"
        content = json.loads(config.read_text(encoding="utf-8"))
        content["architectures"] = ["GPT2LMHeadModel"]
        config.write_text(json.dumps(content), encoding="utf-8")
    printed, report = run(
        monkeypatch,
        "finetune_causal_lm_lora",
        tmp_path,
        *LORA,
        f"--preset={preset}",
    )
    check_lora(printed, report, blocks=2)


@pytest.mark.long
@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="it spreads matrices on JAX"
)
@pytest.mark.parametrize(
    ("parallel", "layout"),
    [
        ("model", "('batch', 'model')"),
        pytest.param("data", "(None, None)", marks=pytest.mark.long),
    ],
)
def test_several_devices(tmp_path, parallel, layout):
    """In a process of its own, which has these devices from the start."""
    command = [
        sys.executable,
        EXAMPLES / "finetune_on_several_devices.py",
        "--devices=4",
        f"--parallel={parallel}",
        "--epochs=1",
        "--examples=70",
        "--sequence-length=16",
        f"--tau={HUGE}",
        f"--output={tmp_path}",
    ]
    # Most of its time would go into compiling.
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    printed = subprocess.run(
        command,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    # 70 sequences are four batches of 16, and a rest.
    assert report["total_steps"] == 4
    assert set(frozen(report).values()) == {2}
    assert len(report["components"]) == 4 * 7
    up = next(line for line in printed.splitlines() if "intermediate" in line)
    assert up.endswith(layout)
    assert "s on 4 devices, loss a token: " in printed


@pytest.mark.long
def test_image_classifier_of_a_preset(monkeypatch, tmp_path):
    converter = keras_hub.layers.ViTImageConverter(
        image_size=(16, 16), scale=1 / 255
    )
    backbone = keras_hub.models.ViTBackbone((16, 16, 3), 8, 2, 2, 8, 16)
    keras_hub.models.ViTImageClassifier(
        backbone,
        num_classes=3,
        preprocessor=keras_hub.models.ViTImageClassifierPreprocessor(converter),
    ).save_to_preset(str(tmp_path / "preset"))
    keras.backend.clear_session()
    _, report = run(
        monkeypatch,
        "finetune_image_classifier",
        tmp_path,
        "--epochs=1",
        "--batch-size=200",
        f"--tau={HUGE}",
        f"--preset={tmp_path / 'preset'}",
    )
    assert len(report["components"]) == 2 * 6
    assert report["stopped_step"] == 20 // 2
