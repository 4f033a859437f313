"""A tiny model of every Transformer family of KerasHub, and what it holds.

The expected roles are counted by hand from the sources of the families, layers
times projections; nothing here runs the discovery that it is there to judge.
"""

import collections
import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras_hub import layers
from keras_hub import models
from keras_hub.src.models.flux.flux_model import FluxBackbone
from keras_hub.src.models.mobilenetv5.mobilenetv5_builder import (
    convert_arch_def_to_stackwise,
)
from keras_hub.src.models.stable_diffusion_3.t5_encoder import T5Encoder
from keras_hub.src.models.vae.vae_backbone import VAEBackbone

VOCABULARY = 31

# Arguments that many families share.
LAYERS = dict(num_layers=2)
TEXT = dict(vocabulary_size=VOCABULARY, **LAYERS)
HEADS = dict(num_heads=2)
GROUPED_HEADS = dict(num_query_heads=4, num_key_value_heads=2)
NARROW = dict(hidden_dim=12, intermediate_dim=20)
WIDE = dict(hidden_dim=24, intermediate_dim=40)
SHORT = dict(max_sequence_length=16)
PATCHES = dict(patch_size=8, image_shape=(16, 16, 3))
EXPERTS = dict(num_experts=3, top_k=2)


@dataclasses.dataclass(frozen=True)
class Family:
    """One family: how to build it, and the roles to be found in it.

    Attributes:
        name: String.
        make: Function, or class, that makes the model.
        arguments: Dict, what it is called with.
        roles: `collections.Counter` from role to number of components, or
            `None` for a model in which there is nothing to find.
        equal: Dict, the arguments with which the inner width of feed-forward
            networks is the hidden width; empty if there are none.
    """

    name: str
    make: Callable
    arguments: dict
    roles: collections.Counter | None
    equal: dict

    def build(self):
        return self.make(**self.arguments)

    def build_at_equal_widths(self):
        return self.make(**self.arguments | self.equal)


FAMILIES = {}


def family(name, make, arguments, roles, equal=None):
    """Adds a row to the table of families."""
    if equal is None:
        equal = equal_widths(arguments)
    FAMILIES[name] = Family(name, make, arguments, roles, equal)


def equal_widths(arguments):
    """Sets each inner width to the hidden width of the same part."""
    equal = {}
    for name in arguments:
        part, is_inner, _ = name.partition("intermediate")
        if name == "mlp_dim" or is_inner:
            part = part if part in ("encoder_", "decoder_") else ""
            width = arguments.get(f"{part}hidden_dim")
            if isinstance(arguments[name], int) and width:
                equal[name] = width
    return equal


def written(roles):
    """Adds a family that takes more than arguments to build."""

    def add(build):
        family(build.__name__, build, {}, roles)
        return build

    return add


def times(number, roles):
    return collections.Counter({r: number * n for r, n in roles.items()})


def roles(*names):
    return collections.Counter(names)


ATTENTION = roles("query", "key", "value", "attention_output")
FUSED_ATTENTION = roles("qkv", "attention_output")
FFN = roles("ffn_up", "ffn_down")
GATED_FFN = roles("ffn_gate", "ffn_up", "ffn_down")
FUSED_GATED_FFN = roles("ffn_gate_up", "ffn_down")


# Encoders of text.

# Two groups of one layer; each layer is called twice, but exists once:
# 2 layers x (q, k, v, o, up, down).
family(
    "albert",
    models.AlbertBackbone,
    HEADS
    | NARROW
    | SHORT
    | dict(
        vocabulary_size=VOCABULARY,
        num_layers=4,
        num_groups=2,
        num_inner_repetitions=1,
        embedding_dim=10,
    ),
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "bert",
    models.BertBackbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down); q and k also project the relative
# positions, which adds no weight.
family(
    "deberta_v3",
    models.DebertaV3Backbone,
    TEXT | HEADS | NARROW | SHORT | dict(bucket_size=4),
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "distil_bert",
    models.DistilBertBackbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down); the embedding projection is none.
family(
    "electra",
    models.ElectraBackbone,
    HEADS
    | NARROW
    | SHORT
    | LAYERS
    | dict(vocab_size=VOCABULARY, embedding_dim=10),
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "esm",
    models.ESMBackbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN),
)

# 2 layers x (up, down): Fourier mixing has no weights.
family(
    "f_net",
    models.FNetBackbone,
    TEXT | NARROW | SHORT,
    times(2, FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "roberta",
    models.RobertaBackbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "roformer_v2",
    models.RoformerV2Backbone,
    TEXT | HEADS | NARROW | dict(head_size=6),
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "xlm_roberta",
    models.XLMRobertaBackbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down and the projection of the relative
# positions, which is a second key).
family(
    "xlnet",
    models.XLNetBackbone,
    TEXT | HEADS | NARROW,
    times(2, ATTENTION + roles("key") + FFN),
)


# Decoders of text.

# 2 layers x (q, k, v, o, up, down).
family(
    "bloom",
    models.BloomBackbone,
    TEXT | HEADS | NARROW,
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "falcon",
    models.FalconBackbone,
    TEXT | NARROW | dict(num_attention_heads=2),
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, gate, up, down). Each gated matrix is
# `intermediate_dim // 2` wide.
family(
    "gemma",
    models.GemmaBackbone,
    TEXT | GROUPED_HEADS | dict(hidden_dim=12, intermediate_dim=40, head_dim=6),
    times(2, ATTENTION + GATED_FFN),
    equal=dict(intermediate_dim=2 * 12),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "gemma3",
    models.Gemma3Backbone,
    TEXT
    | GROUPED_HEADS
    | NARROW
    | dict(
        image_size=16,
        head_dim=6,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        use_sliding_window_attention=True,
        sliding_window_size=4,
    ),
    times(2, ATTENTION + GATED_FFN),
)


# 2 text layers x (q, k, v, o, gate, up, down)
# + 2 vision layers x (q, k, v, o, up, down).
@written(times(2, ATTENTION + GATED_FFN) + times(2, ATTENTION + FFN))
def gemma3_vision():
    return models.Gemma3Backbone(
        vocabulary_size=VOCABULARY,
        image_size=16,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=12,
        intermediate_dim=20,
        head_dim=6,
        vision_encoder=models.Gemma3VisionEncoder(
            image_size=16,
            patch_size=4,
            num_heads=2,
            hidden_dim=8,
            num_layers=2,
            intermediate_dim=18,
            output_dim=12,
            pool_size=2,
        ),
    )


# The text model of Gemma 3n without its towers.
GEMMA3N = dict(
    text_vocab_size=VOCABULARY,
    text_hidden_size=12,
    num_hidden_layers=2,
    pad_token_id=0,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    intermediate_size=[20, 20],
    hidden_activation="gelu_approximate",
    layer_types=["full_attention", "sliding_attention"],
    sliding_window=4,
    rope_theta=10000.0,
    max_position_embeddings=16,
    vocab_size_per_layer_input=VOCABULARY,
    hidden_size_per_layer_input=2,
    altup_num_inputs=2,
    laurel_rank=3,
)

# 2 layers x (q, k, v, o, gate, up, down); LAuReL, AltUp and the per-layer
# inputs are none.
family(
    "gemma3n",
    models.Gemma3nBackbone,
    GEMMA3N,
    times(2, ATTENTION + GATED_FFN),
)


# 2 text layers x (q, k, v, o, gate, up, down) + 2 vision blocks of multi-query
# attention (q, k, v, o as 1x1 convolutions), the second with keys and values at
# half of the resolution + 1 audio block (q, k, v, o and the projection of the
# relative positions, a second key; 2 FFNs x (up, down)). The inverted residuals
# of the vision model and the convolution module of the audio block are none.
@written(
    times(2, ATTENTION + GATED_FFN)
    + times(2, ATTENTION)
    + (ATTENTION + roles("key") + times(2, FFN))
)
def gemma3n_multimodal():
    vision_encoder = models.MobileNetV5Backbone(
        **convert_arch_def_to_stackwise(
            [
                ["er_r1_k3_s2_e1_c8"],
                ["uir_r1_a3_k0_s1_e2_c8"],
                ["uir_r1_a3_k0_s1_e2_c8", "mqa_r1_k3_h2_d6_s1_c8"],
                ["mqa_r1_k3_h2_d6_v2_s1_c8"],
            ]
        ),
        num_features=8,
        image_shape=(16, 16, 3),
        use_msfa=False,
    )
    return models.Gemma3nBackbone(
        **GEMMA3N,
        vision_encoder_config=vision_encoder.get_config(),
        vision_hidden_size=8,
        audio_encoder_config=dict(
            hidden_size=8,
            input_feat_size=16,
            sscp_conv_channel_size=[4, 6],
            sscp_conv_kernel_size=[(3, 3), (3, 3)],
            sscp_conv_stride_size=[(2, 2), (2, 2)],
            sscp_conv_group_norm_eps=1e-3,
            num_hidden_layers=1,
            rms_norm_eps=1e-6,
            gradient_clipping=1e10,
            residual_weight=0.5,
            num_attention_heads=2,
            attention_chunk_size=4,
            num_attention_context_right=0,
            num_attention_context_left=5,
            attention_logit_cap=50.0,
            conv_kernel_size=5,
            reduction_factor=1,
        ),
        audio_hidden_size=8,
    )


# The text model of Gemma 4 without its towers.
GEMMA4 = dict(
    vocabulary_size=VOCABULARY,
    image_size=16,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=12,
    intermediate_dim=20,
    head_dim=6,
    global_head_dim=8,
    sliding_window_size=4,
)

# 3 layers x (q, o, gate, up, down), of which the last takes its keys and
# values from the second, so 2 x (k, v). The per-layer inputs are none.
family(
    "gemma4",
    models.Gemma4Backbone,
    GEMMA4
    | dict(
        num_layers=3,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        num_kv_shared_layers=1,
        hidden_size_per_layer_input=2,
    ),
    times(3, roles("query", "attention_output") + GATED_FFN)
    + times(2, roles("key", "value")),
)

# 2 layers x (q, k, v, o; gate, up, down; three stacks of 3 experts: gate, up,
# down).
family(
    "gemma4_moe",
    models.Gemma4Backbone,
    GEMMA4
    | LAYERS
    | dict(
        enable_moe_block=True,
        num_experts=3,
        expert_intermediate_dim=28,
        num_experts_per_token=2,
    ),
    times(2, ATTENTION + times(2, GATED_FFN)),
)


# 2 text layers and 2 vision layers x (q, k, v, o, gate, up, down) + 1 audio
# block (q, k, v, o and the projection of the relative positions, a second
# key; 2 FFNs x (up, down)). The convolution module of the audio block is none.
@written(
    times(4, ATTENTION + GATED_FFN) + (ATTENTION + roles("key") + times(2, FFN))
)
def gemma4_multimodal():
    return models.Gemma4Backbone(
        **GEMMA4,
        num_layers=2,
        vision_encoder=models.Gemma4VisionEncoder(
            image_size=16,
            patch_size=4,
            num_heads=2,
            hidden_dim=16,
            num_layers=2,
            intermediate_dim=18,
            head_dim=8,
            output_dim=12,
            pool_size=2,
        ),
        audio_encoder=models.Gemma4AudioEncoder(
            input_feat_size=16,
            hidden_size=8,
            num_heads=2,
            num_layers=1,
            chunk_size=4,
            context_left=5,
            sscp_conv_channels=(4, 6),
            output_proj_dims=10,
            output_dim=12,
        ),
        num_audio_tokens_per_clip=4,
    )


# 2 layers x (q, k, v, o, up, down).
family(
    "gpt2",
    models.GPT2Backbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN),
)

# 2 layers x (fused qkv, o, up, down).
family(
    "gpt_neo_x",
    models.GPTNeoXBackbone,
    TEXT | HEADS | SHORT | dict(hidden_dim=16, intermediate_dim=20),
    times(2, FUSED_ATTENTION + FFN),
)

# 2 layers x (q, k, v, o and two stacks of 3 experts: gate with up fused,
# down). The bias of a stack belongs to it.
family(
    "gpt_oss",
    models.GptOssBackbone,
    TEXT
    | GROUPED_HEADS
    | NARROW
    | EXPERTS
    | dict(head_dim=6, sliding_window=4),
    times(2, ATTENTION + FUSED_GATED_FFN),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "llama",
    models.LlamaBackbone,
    TEXT | GROUPED_HEADS | WIDE,
    times(2, ATTENTION + GATED_FFN),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "llama3",
    models.Llama3Backbone,
    TEXT | GROUPED_HEADS | WIDE,
    times(2, ATTENTION + GATED_FFN),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "mistral",
    models.MistralBackbone,
    TEXT | GROUPED_HEADS | NARROW | dict(head_dim=6, sliding_window=4),
    times(2, ATTENTION + GATED_FFN),
)

# 2 layers x (q, k, v, o and three stacks of 3 experts: gate, up, down).
family(
    "mixtral",
    models.MixtralBackbone,
    TEXT | GROUPED_HEADS | WIDE | EXPERTS | dict(sliding_window=4),
    times(2, ATTENTION + GATED_FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "opt",
    models.OPTBackbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, gate, up, down): in Keras nothing is fused here.
family(
    "phi3",
    models.Phi3Backbone,
    TEXT | GROUPED_HEADS | WIDE,
    times(2, ATTENTION + GATED_FFN),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "qwen",
    models.QwenBackbone,
    TEXT | GROUPED_HEADS | WIDE,
    times(2, ATTENTION + GATED_FFN),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "qwen3",
    models.Qwen3Backbone,
    TEXT | GROUPED_HEADS | NARROW | dict(head_dim=6),
    times(2, ATTENTION + GATED_FFN),
)


# A layer of full attention: q (with the output gate fused into it), k, v, o.
# A layer of linear attention: fused qkv, output gate z (as wide as the values)
# and output projection, both attention_output; its per-head gates a, b and
# its short convolution are none.
QWEN3_5_ATTENTION = ATTENTION + roles(
    "qkv", "attention_output", "attention_output"
)

# 1 full + 1 linear attention + 2 x (gate, up, down).
family(
    "qwen3_5",
    models.Qwen3_5Backbone,
    TEXT
    | GROUPED_HEADS
    | NARROW
    | dict(
        layer_types=["linear_attention", "full_attention"],
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=4,
        linear_value_head_dim=6,
    ),
    QWEN3_5_ATTENTION + times(2, GATED_FFN),
)

# 1 full + 1 linear attention + 2 x (two stacks of 3 experts: gate with up
# fused, down; shared expert: gate, up, down).
family(
    "qwen3_5_moe",
    models.Qwen3_5MoeBackbone,
    TEXT
    | GROUPED_HEADS
    | EXPERTS
    | dict(
        layer_types=["linear_attention", "full_attention"],
        head_dim=8,
        hidden_dim=12,
        moe_intermediate_dim=20,
        shared_expert_intermediate_size=28,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=4,
        linear_value_head_dim=6,
    ),
    QWEN3_5_ATTENTION + times(2, FUSED_GATED_FFN + GATED_FFN),
)

# 2 x (q, k, v, o) + dense layer 0: gate, up, down + sparse layer 1: two
# stacks of 3 experts (gate with up fused, down).
family(
    "qwen3_moe",
    models.Qwen3MoeBackbone,
    TEXT
    | GROUPED_HEADS
    | NARROW
    | EXPERTS
    | dict(head_dim=6, moe_intermediate_dim=28, mlp_only_layers=[0]),
    times(2, ATTENTION) + GATED_FFN + FUSED_GATED_FFN,
)

# 2 layers x (q, k, v, o; two stacks of 3 experts: gate with up fused, down;
# shared expert: gate, up, down).
family(
    "qwen_moe",
    models.QwenMoeBackbone,
    TEXT
    | GROUPED_HEADS
    | WIDE
    | EXPERTS
    | dict(moe_intermediate_dim=28, shared_expert_intermediate_dim=32),
    times(2, ATTENTION + FUSED_GATED_FFN + GATED_FFN),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "smollm3",
    models.SmolLM3Backbone,
    TEXT
    | WIDE
    | dict(
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, False],
        layer_types=["full_attention", "full_attention"],
        mlp_bias=False,
        layer_norm_epsilon=1e-5,
        max_position_embeddings=16,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
    ),
    times(2, ATTENTION + GATED_FFN),
)


# Encoders with decoders of text.

# 2 encoder layers x (q, k, v, o, up, down)
# + 2 decoder layers x (self and cross q, k, v, o; up, down).
family(
    "bart",
    models.BartBackbone,
    TEXT | HEADS | NARROW | SHORT,
    times(2, ATTENTION + FFN) + times(2, times(2, ATTENTION) + FFN),
)


# 2 encoder layers x (q, k, v, o, gate, up, down)
# + 2 decoder layers x (self and cross q, k, v, o; gate, up, down).
T5 = times(2, ATTENTION + GATED_FFN) + times(2, times(2, ATTENTION) + GATED_FFN)

family(
    "edrec",
    models.EdRecBackbone,
    HEADS
    | NARROW
    | dict(vocab_size=VOCABULARY, num_layers_enc=2, num_layers_dec=2),
    T5,
)

# The relative position bias is none.
family(
    "t5",
    models.T5Backbone,
    TEXT | HEADS | NARROW | dict(key_value_dim=8),
    T5,
)

family(
    "t5gemma",
    models.T5GemmaBackbone,
    dict(
        vocabulary_size=VOCABULARY,
        encoder_hidden_dim=12,
        encoder_intermediate_dim=20,
        encoder_num_layers=2,
        encoder_num_attention_heads=4,
        encoder_num_key_value_heads=2,
        encoder_head_dim=6,
        encoder_layer_types=["full_attention", "sliding_attention"],
        decoder_hidden_dim=16,
        decoder_intermediate_dim=28,
        decoder_num_layers=2,
        decoder_num_attention_heads=4,
        decoder_num_key_value_heads=2,
        decoder_head_dim=10,
        decoder_layer_types=["full_attention", "sliding_attention"],
        sliding_window=4,
    ),
    T5,
)

# 4 layers x (q, k, v, o, gate, up, down): the decoder's self and cross
# attention are merged into one.
family(
    "t5gemma2",
    models.T5Gemma2Backbone,
    dict(
        vocabulary_size=VOCABULARY,
        encoder_hidden_dim=12,
        encoder_intermediate_dim=20,
        encoder_num_layers=2,
        encoder_num_attention_heads=4,
        encoder_num_key_value_heads=2,
        encoder_head_dim=6,
        encoder_layer_types=["full_attention", "sliding_attention"],
        decoder_hidden_dim=12,
        decoder_intermediate_dim=28,
        decoder_num_layers=2,
        decoder_num_attention_heads=4,
        decoder_num_key_value_heads=2,
        decoder_head_dim=6,
        decoder_layer_types=["full_attention", "sliding_attention"],
        sliding_window=4,
    ),
    times(4, ATTENTION + GATED_FFN),
)


# Audio.

# 2 encoder layers x (q, k, v, o, up, down) + 2 decoder layers x (self and
# cross q, k, v, o; gate with up fused, down).
family(
    "moonshine",
    models.MoonshineBackbone,
    dict(
        vocabulary_size=VOCABULARY,
        filter_dim=10,
        encoder_num_layers=2,
        decoder_num_layers=2,
        hidden_dim=16,
        intermediate_dim=40,
        encoder_num_heads=2,
        decoder_num_heads=2,
        feedforward_expansion_factor=3,
    ),
    times(2, ATTENTION + FFN) + times(2, times(2, ATTENTION) + FUSED_GATED_FFN),
    equal=dict(feedforward_expansion_factor=1),
)

# 2 encoder layers x (q, k, v, o, up, down)
# + 2 decoder layers x (self and cross q, k, v, o; up, down).
family(
    "whisper",
    models.WhisperBackbone,
    TEXT
    | HEADS
    | NARROW
    | dict(
        num_mels=10,
        max_encoder_sequence_length=16,
        max_decoder_sequence_length=16,
    ),
    times(2, ATTENTION + FFN) + times(2, times(2, ATTENTION) + FFN),
)


# Vision.

# 2 layers x (q, k, v, o, up, down).
family(
    "deit",
    models.DeiTBackbone,
    HEADS | NARROW | PATCHES | LAYERS,
    times(2, ATTENTION + FFN),
)


# The 2 layers of its image encoder x (q, k, v, o, up, down); the rest is
# convolutional.
@written(times(2, ATTENTION + FFN))
def depth_anything():
    return models.DepthAnythingBackbone(
        image_encoder=models.DINOV2Backbone(
            patch_size=8,
            num_layers=2,
            hidden_dim=12,
            num_heads=2,
            intermediate_dim=20,
            image_shape=(64, 64, 3),
            position_embedding_shape=(64, 64, 3),
        ),
        reassemble_factors=[2, 1, 0.5],
        neck_hidden_dims=[4, 4, 4],
        fusion_hidden_dim=4,
        head_hidden_dim=4,
        head_in_index=-1,
    )


# 2 layers x (q, k, v, o, up, down).
family(
    "dinov2",
    models.DINOV2Backbone,
    HEADS
    | NARROW
    | PATCHES
    | LAYERS
    | dict(position_embedding_shape=(16, 16, 3)),
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, gate with up fused, down).
family(
    "dinov2_swiglu",
    models.DINOV2Backbone,
    HEADS
    | NARROW
    | PATCHES
    | LAYERS
    | dict(use_swiglu_ffn=True, position_embedding_shape=(16, 16, 3)),
    times(2, ATTENTION + FUSED_GATED_FFN),
    equal=dict(hidden_dim=16, intermediate_dim=24),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "dinov3",
    models.DINOV3Backbone,
    HEADS | PATCHES | LAYERS | dict(hidden_dim=16, intermediate_dim=20),
    times(2, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, gate, up, down).
family(
    "dinov3_gated",
    models.DINOV3Backbone,
    HEADS
    | PATCHES
    | LAYERS
    | dict(hidden_dim=16, intermediate_dim=20, use_gated_mlp=True),
    times(2, ATTENTION + GATED_FFN),
)

# 2 stages x 1 layer x (q, k, v, o, up, down); neither the convolution that
# shortens the keys' sequence nor the depthwise one inside the FFN counts.
family(
    "mit",
    models.MiTBackbone,
    LAYERS
    | dict(
        layerwise_depths=[1, 1],
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[8, 12],
    ),
    times(2, ATTENTION + FFN),
)

# Stage 0: 2 blocks, stage 1: 1 block; 3 x (fused qkv, o, up, down). Patch
# merging and the table of relative position biases are none.
family(
    "swin_transformer",
    models.SwinTransformerBackbone,
    dict(
        image_shape=(32, 32, 3),
        embed_dim=8,
        depths=[2, 1],
        num_heads=[2, 4],
        window_size=4,
        patch_size=4,
        mlp_ratio=2.5,
        drop_path=0.0,
    ),
    times(3, FUSED_ATTENTION + FFN),
)

# (2 spatial + 1 temporal) layers x (q, k, v, o, up, down).
family(
    "video_prism",
    models.VideoPrismBackbone,
    HEADS
    | NARROW
    | PATCHES
    | dict(
        num_frames=2,
        num_spatial_layers=2,
        num_temporal_layers=1,
        num_auxiliary_layers=0,
    ),
    times(3, ATTENTION + FFN),
)

# (2 spatial + 1 temporal + 1 auxiliary + 1 text) layers x (q, k, v, o, up,
# down); the attention of the pooler is none.
family(
    "video_prism_text",
    models.VideoPrismBackbone,
    HEADS
    | NARROW
    | PATCHES
    | dict(
        num_frames=2,
        num_spatial_layers=2,
        num_temporal_layers=1,
        num_auxiliary_layers=1,
        vocabulary_size=VOCABULARY,
        num_text_layers=1,
    ),
    times(5, ATTENTION + FFN),
)

# 2 layers x (q, k, v, o, up, down).
family(
    "vit",
    models.ViTBackbone,
    HEADS | PATCHES | LAYERS | dict(hidden_dim=12, mlp_dim=20),
    times(2, ATTENTION + FFN),
)

# 2 layers x (fused qkv, o, up, down); the convolutional neck is none.
family(
    "vit_det",
    models.ViTDetBackbone,
    HEADS
    | LAYERS
    | dict(
        hidden_size=12,
        intermediate_dim=20,
        global_attention_layer_indices=[1],
        image_shape=(32, 32, 3),
        patch_size=8,
        num_output_channels=6,
        window_size=2,
    ),
    times(2, FUSED_ATTENTION + FFN),
)


# Several modalities.


# 2 vision layers x (q, k, v, o, up, down) + query transformer: 2 x (q, k, v,
# o, up, down) + cross attention in layer 0 (q, k, v, o) + 2 layers of the
# language model x (q, k, v, o, up, down).
@written(times(6, ATTENTION + FFN) + ATTENTION)
def blip2():
    return models.BLIP2Backbone(
        vision_encoder=models.BLIP2VisionEncoder(
            image_size=16,
            patch_size=8,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=18,
            use_patch_bias=True,
            use_class_token=True,
            use_mha_bias=True,
            use_mlp_bias=True,
            dropout_rate=0.0,
            layer_norm_epsilon=1e-6,
            initializer_range=0.02,
        ),
        qformer=models.BLIP2QFormer(
            num_query_tokens=3,
            num_layers=2,
            num_heads=2,
            hidden_dim=10,
            intermediate_dim=22,
            vision_dim=8,
            cross_attention_frequency=2,
            dropout=0.0,
            layer_norm_epsilon=1e-6,
        ),
        language_model=models.BLIP2CustomOPT(
            vocabulary_size=VOCABULARY,
            num_layers=2,
            num_heads=2,
            hidden_dim=12,
            intermediate_dim=20,
            num_query_tokens=3,
            dropout=0.0,
            max_sequence_length=16,
            qformer_hidden_dim=10,
        ),
    )


def two_towers(backbone, vision_encoder, text_encoder, text_width, **arguments):
    """A backbone of two encoders, of images and of text."""
    return backbone(
        vision_encoder=vision_encoder(**PATCHES, **LAYERS, **HEADS, **NARROW),
        text_encoder=text_encoder(
            **TEXT,
            **HEADS,
            **SHORT,
            embedding_dim=text_width,
            hidden_dim=text_width,
            intermediate_dim=28,
        ),
        **arguments,
    )


# (2 vision + 2 text) layers x (q, k, v, o, up, down); the projections into the
# common space are none, and neither the attention nor the FFN of SigLIP's
# vision pooler counts.
family(
    "clip",
    two_towers,
    dict(
        backbone=models.CLIPBackbone,
        vision_encoder=models.CLIPVisionEncoder,
        text_encoder=models.CLIPTextEncoder,
        text_width=16,
        projection_dim=10,
    ),
    times(4, ATTENTION + FFN),
)
family(
    "metaclip_2",
    two_towers,
    dict(
        backbone=models.MetaCLIP2Backbone,
        vision_encoder=models.MetaCLIP2VisionEncoder,
        text_encoder=models.MetaCLIP2TextEncoder,
        text_width=16,
        projection_dim=10,
    ),
    times(4, ATTENTION + FFN),
)
family(
    "siglip",
    two_towers,
    dict(
        backbone=models.SigLIPBackbone,
        vision_encoder=models.SigLIPVisionEncoder,
        text_encoder=models.SigLIPTextEncoder,
        text_width=12,
    ),
    times(4, ATTENTION + FFN),
)

# 2 text layers x (q, k, v, o, gate, up, down)
# + 2 vision layers x (q, k, v, o, up, down).
family(
    "pali_gemma",
    models.PaliGemmaBackbone,
    TEXT
    | GROUPED_HEADS
    | dict(
        image_size=16,
        hidden_dim=12,
        intermediate_dim=40,
        head_dim=6,
        vit_patch_size=8,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_num_layers=2,
        vit_intermediate_dim=18,
    ),
    times(2, ATTENTION + GATED_FFN) + times(2, ATTENTION + FFN),
    equal=dict(intermediate_dim=2 * 12),
)


# 2 image layers x (q, k, v, o, up, down) + 2 decoder layers x (self and cross
# q, k, v, o; up, down); the head is none.
@written(times(2, ATTENTION + FFN) + times(2, times(2, ATTENTION) + FFN))
def parseq():
    return models.PARSeqBackbone(
        image_encoder=FAMILIES["vit"].build(),
        vocabulary_size=VOCABULARY,
        max_label_length=8,
        decoder_hidden_dim=12,
        num_decoder_layers=2,
        num_decoder_heads=2,
        decoder_mlp_dim=28,
    )


# An image segmenter owns the mask decoder that the backbone only carries:
# 2 image layers x (fused qkv, o, up, down) + 2 two-way layers x (self, token to
# image and image to token attention, each q, k, v, o; up, down) + final
# attention (q, k, v, o). Hypernetworks, IoU head and upscaling are none.
@written(times(2, FUSED_ATTENTION + FFN) + times(7, ATTENTION) + times(2, FFN))
def sam():
    return models.SAMImageSegmenter(
        models.SAMBackbone(
            image_encoder=models.ViTDetBackbone(
                hidden_size=12,
                num_layers=2,
                intermediate_dim=20,
                num_heads=2,
                global_attention_layer_indices=[1],
                image_shape=(32, 32, 3),
                patch_size=8,
                num_output_channels=16,
                window_size=2,
            ),
            prompt_encoder=layers.SAMPromptEncoder(
                hidden_size=16,
                image_embedding_size=(4, 4),
                input_image_size=(32, 32),
                mask_in_channels=4,
            ),
            mask_decoder=layers.SAMMaskDecoder(
                num_layers=2,
                hidden_size=16,
                intermediate_dim=28,
                num_heads=2,
                embedding_dim=16,
                iou_head_hidden_dim=10,
            ),
        )
    )


# 1 block of two streams x (qkv, o, up, down) + 2 blocks in which one matrix
# leads to queries, keys, values and the inner width, and one leads back. What
# embeds time and text is none.
family(
    "flux",
    FluxBackbone,
    dict(
        input_channels=4,
        hidden_size=16,
        mlp_ratio=2,
        num_heads=2,
        depth=1,
        depth_single_blocks=2,
        axes_dim=[2, 2, 4],
        theta=10_000,
        use_bias=True,
        image_shape=(6, 4),
        text_shape=(5, 8),
        image_ids_shape=(6, 3),
        text_ids_shape=(5, 3),
        y_shape=(8,),
    ),
    times(2, FUSED_ATTENTION + FFN) + times(2, FUSED_ATTENTION),
    equal=dict(mlp_ratio=1),
)


# Diffuser, layer 0: image stream with dual attention 2 x (fused qkv, o), up,
# down + text stream (fused qkv, o, up, down); layer 1, the last: image stream
# (fused qkv, o, up, down) + text stream (fused qkv only). Encoders of text:
# (2 + 2) CLIP layers x (q, k, v, o, up, down) + 1 T5 layer (q, k, v, o, gate,
# up, down). VAE: one attention each in encoder and decoder (q, k, v, o as 1x1
# convolutions). Modulation and embedders (time step, pooled text) are none.
# (KerasHub 0.32 cannot build this T5 encoder on PyTorch.)
@written(
    (times(3, FUSED_ATTENTION) + times(2, FFN))
    + (FUSED_ATTENTION + FFN + roles("qkv"))
    + times(4, ATTENTION + FFN)
    + (ATTENTION + GATED_FFN)
    + times(2, ATTENTION)
)
def stable_diffusion_3():
    return models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=12,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=4,
        mmdit_qk_norm="rms_norm",
        mmdit_dual_attention_indices=(0,),
        vae=VAEBackbone(
            encoder_num_filters=[32, 32, 32, 32],
            encoder_num_blocks=[1, 1, 1, 1],
            decoder_num_filters=[32, 32, 32, 32],
            decoder_num_blocks=[1, 1, 1, 1],
        ),
        clip_l=models.CLIPTextEncoder(
            vocabulary_size=VOCABULARY,
            embedding_dim=16,
            hidden_dim=16,
            num_layers=2,
            num_heads=2,
            intermediate_dim=28,
            intermediate_output_index=-2,
            max_sequence_length=16,
            name="clip_l",
        ),
        clip_g=models.CLIPTextEncoder(
            vocabulary_size=VOCABULARY,
            embedding_dim=16,
            hidden_dim=16,
            num_layers=2,
            num_heads=2,
            intermediate_dim=28,
            intermediate_output_index=-2,
            max_sequence_length=16,
            name="clip_g",
        ),
        t5=T5Encoder(
            vocabulary_size=VOCABULARY,
            num_layers=1,
            num_heads=2,
            hidden_dim=36,
            intermediate_dim=44,
            name="t5",
        ),
        image_shape=(32, 32, 3),
    )


# Models in which there is nothing to find.


family(
    "resnet",
    models.ResNetBackbone,
    dict(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    ),
    None,
)

family(
    "rwkv7",
    models.RWKV7Backbone,
    TEXT
    | dict(
        hidden_size=16,
        head_size=8,
        intermediate_dim=20,
        gate_lora=4,
        mv_lora=4,
        aaa_lora=4,
        decay_lora=4,
    ),
    None,
)


# Training.

LENGTH = 8
CLASSES = 3


def text(rng, batch_size, prefix=""):
    shape = (batch_size, LENGTH)
    return {
        f"{prefix}token_ids": rng.integers(1, VOCABULARY, shape, "int32"),
        f"{prefix}padding_mask": np.ones(shape, "int32"),
    }


def segmented_text(rng, batch_size):
    segments = rng.integers(0, 2, (batch_size, LENGTH), "int32")
    return text(rng, batch_size) | {"segment_ids": segments}


def two_texts(rng, batch_size):
    return text(rng, batch_size, "encoder_") | text(rng, batch_size, "decoder_")


def images(rng, batch_size):
    return rng.standard_normal((batch_size, 16, 16, 3), "float32")


def speech(rng, batch_size):
    features = rng.standard_normal((batch_size, 16, 10), "float32")
    return text(rng, batch_size, "decoder_") | {"encoder_features": features}


# Ten of the families, each with a function (random generator, batch size) ->
# inputs.
SAMPLE = {
    "albert": segmented_text,  # shared layers
    "bart": two_texts,  # encoder and decoder
    "bert": segmented_text,  # encoder
    "gpt2": text,  # decoder
    "gpt_neo_x": text,  # fused qkv
    "llama": text,  # gated FFN
    "qwen_moe": text,  # routed and shared experts
    "t5": two_texts,  # encoder and decoder, gated FFN
    "vit": images,  # vision
    "whisper": speech,  # audio
}


def classifier(backbone):
    """Returns a model with a head on the mean of the backbone's sequence."""
    sequence = backbone.output
    if isinstance(sequence, dict):
        names = ("decoder_sequence_output", "sequence_output")
        sequence = next(sequence[name] for name in names if name in sequence)
    mean = keras.layers.GlobalAveragePooling1D()(sequence)
    return keras.Model(backbone.input, keras.layers.Dense(CLASSES)(mean))


def batches(name, number, batch_size=4, seed=0):
    """Returns random inputs and labels for so many batches of one family."""
    rng = np.random.default_rng(seed)
    x = SAMPLE[name](rng, number * batch_size)
    return x, rng.integers(0, CLASSES, number * batch_size)
