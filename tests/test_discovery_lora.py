"""LoRA pairs, and what is quantized."""

import keras
import pytest
from backbones import bert
from backbones import in_bert
from discovered import describe
from discovered import found_parts
from discovered import lora_pair
from graph_models import graph
from graph_models import graph_parts

from keras_grades import find_components

pytestmark = pytest.mark.alike


@pytest.mark.parametrize("mode", [None, "int8"])
def test_lora_pairs(mode):
    """The pair alone: Keras goes on training a bias beside it."""
    backbone = bert(num_layers=1)
    if mode:
        backbone.quantize(mode)
    backbone.enable_lora(2)
    block = backbone.get_layer("transformer_layer_0")
    attention = block._self_attention_layer
    assert describe(find_components(backbone)) == [
        (
            f"transformer_layer_0/self_attention_layer/{role}",
            role,
            "transformer_layer_0",
            lora_pair(layer),
        )
        for role, layer in [
            ("query", attention._query_dense),
            ("value", attention._value_dense),
        ]
    ]


def test_lora_beside_what_is_trained_in_full():
    backbone = bert()
    by_hand = in_bert(backbone)
    for i, (name, *_) in enumerate(by_hand):
        if not name.endswith(("/query", "/feedforward_output_dense")):
            continue
        block = backbone.get_layer(name.split("/")[0])
        layer = (
            block._self_attention_layer._query_dense
            if name.endswith("query")
            else block._feedforward_output_dense
        )
        layer.enable_lora(2)
        by_hand[i] = (*by_hand[i][:3], lora_pair(layer))
    assert describe(find_components(backbone)) == by_hand


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_lora_on_every_quantized_projection(mode):
    """Packed to int4, a kernel no longer has the shape that it stands for."""
    model, parts = graph([graph_parts()])
    model.quantize(mode)
    with pytest.raises(ValueError, match="enable_lora"):
        find_components(model)
    for _, layer in parts:
        layer.enable_lora(2)
    assert found_parts(find_components(model)) == [
        (role, lora_pair(layer)) for role, layer in parts
    ]


def test_float8_is_still_trained():
    backbone = bert()
    backbone.quantize("float8")
    block = backbone.get_layer("transformer_layer_0")
    assert block._feedforward_output_dense.quantization_mode == "float8"
    assert describe(find_components(backbone)) == in_bert(backbone)


def test_dtype_policy_changes_nothing():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        backbone = bert()
    finally:
        keras.config.set_dtype_policy("float32")
    assert describe(find_components(backbone)) == in_bert(backbone)
