"""Four small backbones of KerasHub, and what they hold, layer by layer."""

from discovered import attention_parts
from discovered import expected
from discovered import plain_parts
from keras_hub import models


def bert(num_layers=2):
    return models.BertBackbone(
        vocabulary_size=31,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=12,
        intermediate_dim=20,
        max_sequence_length=16,
    )


def gpt2():
    return models.GPT2Backbone(
        vocabulary_size=31,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        intermediate_dim=20,
        max_sequence_length=16,
    )


def llama():
    return models.LlamaBackbone(
        vocabulary_size=31,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=24,
        intermediate_dim=40,
    )


def vit():
    return models.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        mlp_dim=20,
    )


def in_bert(backbone):
    names = ["transformer_layer_0", "transformer_layer_1"]
    return expected(
        (n, plain_parts("self_attention_layer", backbone.get_layer(n)))
        for n in names
    )


def in_gpt2(backbone):
    names = ["transformer_layer_0", "transformer_layer_1"]
    return expected(
        (n, plain_parts("self_attention", backbone.get_layer(n))) for n in names
    )


def in_llama(backbone):
    def parts(block):
        up, gate, down = (
            block._feedforward_intermediate_dense,
            block._feedforward_gate_dense,
            block._feedforward_output_dense,
        )
        return attention_parts(
            "self_attention", block._self_attention_layer
        ) + [
            ("feedforward_intermediate_dense", "ffn_up", up),
            ("feedforward_gate_dense", "ffn_gate", gate),
            ("feedforward_output_dense", "ffn_down", down),
        ]

    names = ["transformer_layer_0", "transformer_layer_1"]
    return expected((n, parts(backbone.get_layer(n))) for n in names)


def in_vit(backbone):
    [encoder] = [x for x in backbone.layers if hasattr(x, "encoder_layers")]
    return expected(
        (
            f"transformer_block_{i}",
            attention_parts("mha", block.mha)
            + [
                ("mlp/dense_1", "ffn_up", block.mlp.dense_1),
                ("mlp/dense_2", "ffn_down", block.mlp.dense_2),
            ],
        )
        for i, block in enumerate(encoder.encoder_layers, 1)
    )


BACKBONES = {
    "bert": (bert, in_bert),
    "gpt2": (gpt2, in_gpt2),
    "llama": (llama, in_llama),
    "vit": (vit, in_vit),
}
