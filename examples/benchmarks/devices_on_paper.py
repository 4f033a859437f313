"""What `devices.py` counts, on paper: models of 1B and 70B, 8 and 64 devices.

    python examples/benchmarks/devices_on_paper.py

Nothing is measured here. The shapes of the models are those of Llama 3.2 1B
and Llama 3 70B; the rest are the assumptions below. A ring is assumed for
each collective, and nothing that hides it behind the computation.
"""

import dataclasses

# Bytes of a weight and its gradient in bfloat16; and of all that AdamW needs
# of a weight with 32-bit moments: weight, gradient, both moments.
BYTES, BYTES_WITH_ADAMW = 2, 12
# An H100 with 80 GB, of whose 989 Tflop/s a step reaches four tenths.
MEMORY, FLOPS, REACHED = 80e9, 989e12, 0.4
# Bytes a second in each direction: NVLink among the 8 devices of a node, a
# 400 Gbit/s port for each device between nodes.
NODE, IN_NODE, BETWEEN_NODES = 8, 450e9, 50e9
# Of each device, in a step.
TOKENS = 8 * 2048
HALF = 0.5


@dataclasses.dataclass(frozen=True)
class Model:
    """Attributes: sizes as in the model's card; `kv_width` is of all heads."""

    name: str
    layers: int
    width: int
    kv_width: int
    hidden: int
    vocabulary: int
    tied: bool

    @property
    def tracked(self):
        """Weights of attention and of the feed-forward networks."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return self.layers * (attention + 3 * self.width * self.hidden)

    @property
    def weights(self):
        tables = 1 if self.tied else 2
        norms = (2 * self.layers + 1) * self.width
        return self.tracked + tables * self.vocabulary * self.width + norms


MODELS = (
    Model("1B", 16, 2048, 512, 8192, 128256, tied=True),
    Model("70B", 80, 8192, 1024, 28672, 128256, tied=False),
)


def sent(model, devices, frozen):
    """Bytes that a device sends in a step, and how weights are spread.

    Where all fits on each device, gradients are summed over the devices: a
    ring sends each twice. Else weights are spread over all of them, gathered
    in the forward and in the backward pass, and gradients are summed to where
    they belong. What is frozen has no gradient; it is gathered all the same.
    """
    ring = (devices - 1) / devices
    everything = BYTES * model.weights
    gradients = BYTES * (model.weights - frozen * model.tracked)
    if BYTES_WITH_ADAMW * model.weights < MEMORY:
        return "on each device", 2 * ring * gradients
    if BYTES_WITH_ADAMW * model.weights < MEMORY * devices:
        return "spread over all", ring * (2 * everything + gradients)
    return "does not fit", None


def main():
    print(
        "| model | devices | weights | sent, GB | half frozen | takes, s |",
        end="",
    )
    print(" half frozen | a step computes, s | half frozen |")
    print(9 * "| --- " + "|")
    for model in MODELS:
        for devices in (8, 64):
            print("| " + " | ".join(row(model, devices)) + " |")


def row(model, devices):
    where, whole = sent(model, devices, 0)
    cells = [model.name, str(devices), where]
    if whole is None:
        return cells + 6 * [""]
    _, less = sent(model, devices, HALF)
    link = IN_NODE if devices <= NODE else BETWEEN_NODES
    # Two flops a weight and token forward, four backward: half of these are
    # for the gradients of weights.
    flops = 6 * model.weights * TOKENS
    fewer = flops - 2 * HALF * model.tracked * TOKENS
    seconds = [whole / link, less / link]
    seconds += [f / FLOPS / REACHED for f in (flops, fewer)]
    cells += [f"{size / 1e9:.3g}" for size in (whole, less)]
    return cells + [f"{s:.2g}" for s in seconds]


if __name__ == "__main__":
    main()
