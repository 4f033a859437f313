"""What is found in backbones and tasks of KerasHub."""

import keras
import pytest
from backbones import BACKBONES
from backbones import bert
from backbones import gpt2
from backbones import llama
from backbones import vit
from discovered import LENGTH
from discovered import describe
from keras import layers
from keras import ops
from keras_hub import models
from markers import marks_long_on

from keras_grades import find_components

# What is found does not depend on the backend.
pytestmark = marks_long_on("jax", "tensorflow")


@pytest.mark.parametrize("family", BACKBONES)
def test_backbone(family):
    build, find_by_hand = BACKBONES[family]
    backbone = build()
    assert describe(find_components(backbone)) == find_by_hand(backbone)


TASKS = {
    "BertTextClassifier": lambda: models.BertTextClassifier(
        backbone=bert(), num_classes=2
    ),
    "BertMaskedLM": lambda: models.BertMaskedLM(backbone=bert()),
    "GPT2CausalLM": lambda: models.GPT2CausalLM(backbone=gpt2()),
    "LlamaCausalLM": lambda: models.LlamaCausalLM(backbone=llama()),
    "ViTImageClassifier": lambda: models.ViTImageClassifier(
        backbone=vit(), num_classes=2
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_task_adds_no_component(task):
    model = TASKS[task]()
    assert describe(find_components(model)) == describe(
        find_components(model.backbone)
    )


def test_two_towers_are_told_apart():
    tokens = keras.Input((LENGTH,), dtype="int32")
    ids = {"token_ids": tokens, "padding_mask": ops.ones_like(tokens)}
    towers = [gpt2(), llama()]
    pooled = [layers.GlobalAveragePooling1D()(tower(ids)) for tower in towers]
    model = keras.Model(tokens, layers.Dense(3)(layers.Concatenate()(pooled)))
    found = find_components(model)
    for tower, prefix in zip(towers, ["gpt2_backbone", "llama_backbone"]):
        alone = find_components(tower)
        assert [
            (f"{prefix}/{c.name}", f"{prefix}/{c.block}", c.variables)
            for c in alone
        ] == [
            (c.name, c.block, c.variables)
            for c in found
            if c.name.startswith(prefix)
        ]
    assert len(found) == 2 * 6 + 2 * 7
    assert len(find_components(model, include=r"^llama_backbone/")) == 14


def test_towers_of_clip():
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 12}
    model = models.CLIPBackbone(
        vision_encoder=models.CLIPVisionEncoder(
            patch_size=8,
            image_shape=(16, 16, 3),
            intermediate_dim=20,
            **sizes,
        ),
        text_encoder=models.CLIPTextEncoder(
            vocabulary_size=31,
            embedding_dim=12,
            max_sequence_length=16,
            intermediate_dim=20,
            **sizes,
        ),
        projection_dim=10,
    )
    assert [(c.name, c.block) for c in find_components(model)] == [
        (f"{tower}/encoder_block_0/{part}", f"{tower}/encoder_block_0")
        for tower in ("vision_encoder", "text_encoder")
        for part in [
            "attention/query",
            "attention/key",
            "attention/value",
            "attention/attention_output",
            "dense_1",
            "dense_2",
        ]
    ]
