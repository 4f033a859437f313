"""The models that a user may write, by name."""

from discovered import WIDTH
from graph_models import by_dot
from graph_models import by_einsum
from graph_models import by_layer
from graph_models import by_operation
from graph_models import by_products
from graph_models import graph
from graph_models import graph_of_branches
from graph_models import graph_of_convolutions
from graph_models import graph_parts
from graph_models import graph_that_attends
from graph_models import graph_that_normalizes_twice
from graph_models import graph_with_activation
from keras import layers
from written_models import all_in_lists
from written_models import deep_feed_forward
from written_models import hand_written_attention
from written_models import heads_one_by_one
from written_models import lists_of_layers
from written_models import one_layer_holds_all
from written_models import sequential_feed_forward
from written_models import sequential_model

USER_MODELS = {
    "hand_written_attention": hand_written_attention,
    "sequential_feed_forward": sequential_feed_forward,
    "one_layer_holds_all": one_layer_holds_all,
    "one_layer_holds_all_gated": lambda: one_layer_holds_all(
        ("wq", "wk", "wv", "wo"), ("w1", "w3", "w2")
    ),
    "one_layer_holds_two_outs": lambda: one_layer_holds_all(
        ("qkv", "attn_out"), ("ffn_in", "ffn_out")
    ),
    "one_layer_holds_all_fused": lambda: one_layer_holds_all(
        ("c_attn", "c_proj"), ("c_fc", "mlp_proj"), 3 * WIDTH
    ),
    "camel_case": lambda: one_layer_holds_all(
        ("queryProj", "keyProj", "valueProj", "outProj")
    ),
    "lists_of_layers": lists_of_layers,
    "lists_of_layers_gated": lambda: lists_of_layers(gated=True),
    "sequential_model": sequential_model,
    "graph": lambda: graph([graph_parts() for _ in range(2)]),
    "graph_gated": lambda: graph([graph_parts(gated=True) for _ in range(2)]),
    "graph_of_models": lambda: graph(
        [graph_parts() for _ in range(2)], nested=True
    ),
    "graph_shared": lambda: graph([graph_parts()] * 3),
    "graph_of_convolutions": graph_of_convolutions,
    "deep_feed_forward": lambda: deep_feed_forward((16, 16), (24, 12, 10)),
    "deep_feed_forward_gated": lambda: deep_feed_forward((16, 20), gated=True),
    "heads_one_by_one": heads_one_by_one,
    "all_in_lists": all_in_lists,
    "graph_narrow_and_wide": lambda: graph_of_branches(
        ([4], 0), ([16], 0), ([8], 0), ([32], 0)
    ),
    "graph_deep": lambda: graph_of_branches(
        ([16, 16], 0), ([4, 20], 0), ([4, 4], 0)
    ),
    "graph_with_adapters": lambda: graph_of_branches(
        ([4], 0), ([16], 4), ([20], 8)
    ),
    "graph_normalizes_twice": graph_that_normalizes_twice,
    "graph_attention": lambda: graph_that_attends(by_layer(layers.Attention)),
    "graph_additive_attention": lambda: graph_that_attends(
        by_layer(layers.AdditiveAttention)
    ),
    "graph_attention_fused": lambda: graph_that_attends(
        by_layer(layers.Attention), fused=True
    ),
    "graph_dot_product_attention": lambda: graph_that_attends(by_operation),
    "graph_products": lambda: graph_that_attends(by_products),
    "graph_einsum": lambda: graph_that_attends(by_einsum),
    "graph_dot": lambda: graph_that_attends(by_dot),
    "graph_gate_first": lambda: graph_with_activation(first=True),
    "graph_gate_second": lambda: graph_with_activation(first=False),
}
