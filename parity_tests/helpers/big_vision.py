"""Big Vision's models in NumPy, in float64, from the names of its files.

Written from the formulas of `models/vit.py`, `text_transformer.py` and `two_towers.py`: norms add 1e-6, the gelu is the
approximation with tanh, the class token is set in front of the patches after their positions are added.
"""

import numpy as np

HEADS, WIDTH, HIDDEN, DEPTH = 3, 12, 20, 2
PATCH, IMAGE, CHANNELS = (4, 3), (8, 12), 5
VOCAB, LENGTH, FEATURES, CLASSES = 31, 7, 12, 10


class Drawn(dict):
    """Random tensors by name, each drawn when its shape is first given."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def add(self, name, *shape):
        self[name] = (0.3 * self.rng.standard_normal(shape)).astype(np.float32)
        if name.endswith("scale"):
            self[name] += 1

    def dense(self, name, inputs, outputs):
        self.add(f"{name}/kernel", *inputs, *outputs)
        self.add(f"{name}/bias", *outputs)

    def norm(self, name, dim):
        self.add(f"{name}/scale", dim)
        self.add(f"{name}/bias", dim)

    def attention(self, name, dim):
        for part in ("query", "key", "value"):
            self.dense(f"{name}/{part}", (dim,), (HEADS, dim // HEADS))
        self.dense(f"{name}/out", (HEADS, dim // HEADS), (dim,))

    def mlp(self, name, dim):
        self.dense(f"{name}/Dense_0", (dim,), (HIDDEN,))
        self.dense(f"{name}/Dense_1", (HIDDEN,), (dim,))

    def encoder(self, name, numbers=(0, 1, 0)):
        for n in range(DEPTH):
            block = f"{name}/encoderblock_{n}"
            self.norm(f"{block}/LayerNorm_0", WIDTH)
            self.attention(f"{block}/MultiHeadDotProductAttention_{numbers[0]}", WIDTH)
            self.norm(f"{block}/LayerNorm_{numbers[1]}", WIDTH)
            self.mlp(f"{block}/MlpBlock_{numbers[2]}", WIDTH)
        self.norm(f"{name}/encoder_norm", WIDTH)

    def image(self, path, pool, numbers=(0, 1, 0)):
        places = (IMAGE[0] // PATCH[0]) * (IMAGE[1] // PATCH[1])
        self.dense(f"{path}embedding", (*PATCH, CHANNELS), (WIDTH,))
        if numbers[0]:
            self.add(f"{path}Transformer/posembed_input/pos_embedding", 1, 1 + places, WIDTH)
        else:
            self.add(f"{path}pos_embedding", 1, places, WIDTH)
        if pool == "tok":
            self.add(f"{path}cls", 1, 1, WIDTH)
        self.encoder(f"{path}Transformer", numbers)
        if pool == "map":
            self.add(f"{path}MAPHead_0/probe", 1, 1, WIDTH)
            self.attention(f"{path}MAPHead_0/MultiHeadDotProductAttention_0", WIDTH)
            self.norm(f"{path}MAPHead_0/LayerNorm_0", WIDTH)
            self.mlp(f"{path}MAPHead_0/MlpBlock_0", WIDTH)


def vit(pool, *, classes=True, pre_logits=False, numbers=(0, 1, 0), seed=0):
    """The tensors of a Vision Transformer."""
    drawn = Drawn(seed)
    drawn.image("", pool, numbers)
    if pre_logits:
        drawn.dense("pre_logits", (WIDTH,), (WIDTH,))
    if classes:
        drawn.dense("head", (WIDTH,), (CLASSES,))
    return dict(drawn)


def siglip(seed=0):
    """The tensors of both towers."""
    drawn = Drawn(seed)
    drawn.image("img/", "map")
    drawn.add("txt/Embed_0/embedding", VOCAB, WIDTH)
    drawn.add("txt/pos_embedding", 1, LENGTH, WIDTH)
    drawn.encoder("txt/Encoder_0")
    drawn.dense("txt/head", (WIDTH,), (FEATURES,))
    drawn.add("t", 1)
    drawn.add("b", 1)
    return dict(drawn)


def scanned(tensors):
    """The same tensors with all blocks in one tensor."""
    found = {name: x for name, x in tensors.items() if "/encoderblock_" not in name}
    for name in tensors:
        if "/encoderblock_0/" in name:
            blocks = [tensors[name.replace("block_0", f"block_{n}")] for n in range(DEPTH)]
            found[name.replace("block_0", "block")] = np.stack(blocks)
    return found


def dense(tensors, name, x):
    return x @ tensors[f"{name}/kernel"] + tensors[f"{name}/bias"]


def layer_norm(tensors, name, x):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * tensors[f"{name}/scale"] + tensors[f"{name}/bias"]


def mlp(tensors, name, x):
    x = dense(tensors, f"{name}/Dense_0", x)
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return dense(tensors, f"{name}/Dense_1", x)


def attention(tensors, name, x, y):
    heads = []
    for h in range(HEADS):
        q, k, v = (
            z @ tensors[f"{name}/{part}/kernel"][:, h] + tensors[f"{name}/{part}/bias"][h]
            for part, z in (("query", x), ("key", y), ("value", y))
        )
        scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
        heads.append((scores / scores.sum(-1, keepdims=True)) @ v)
    out = sum(head @ tensors[f"{name}/out/kernel"][h] for h, head in enumerate(heads))
    return out + tensors[f"{name}/out/bias"]


def encoder(tensors, path, x, numbers=(0, 1, 0)):
    for n in range(DEPTH):
        block = f"{path}/encoderblock_{n}"
        y = layer_norm(tensors, f"{block}/LayerNorm_0", x)
        x = x + attention(tensors, f"{block}/MultiHeadDotProductAttention_{numbers[0]}", y, y)
        y = layer_norm(tensors, f"{block}/LayerNorm_{numbers[1]}", x)
        x = x + mlp(tensors, f"{block}/MlpBlock_{numbers[2]}", y)
    return layer_norm(tensors, f"{path}/encoder_norm", x)


def look(tensors, image, pool, path="", numbers=(0, 1, 0)):
    """The vectors of the patches, and the vector or the logits of each image."""
    tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
    (height, width), batch = PATCH, len(image)
    patches = [
        image[:, i : i + height, j : j + width].reshape(batch, -1)
        for i in range(0, IMAGE[0], height)
        for j in range(0, IMAGE[1], width)
    ]
    kernel = tensors[f"{path}embedding/kernel"].reshape(-1, WIDTH)
    x = np.stack(patches, 1) @ kernel + tensors[f"{path}embedding/bias"]
    first = np.tile(tensors[f"{path}cls"], (batch, 1, 1)) if pool == "tok" else x[:, :0]
    if numbers[0]:
        x = np.concatenate([first, x], 1) + tensors[f"{path}Transformer/posembed_input/pos_embedding"]
    else:
        x = np.concatenate([first, x + tensors[f"{path}pos_embedding"]], 1)
    x = encoder(tensors, f"{path}Transformer", x, numbers)
    if pool == "map":
        head = f"{path}MAPHead_0"
        y = np.tile(tensors[f"{head}/probe"], (batch, 1, 1))
        y = attention(tensors, f"{head}/MultiHeadDotProductAttention_0", y, x)
        y = (y + mlp(tensors, f"{head}/MlpBlock_0", layer_norm(tensors, f"{head}/LayerNorm_0", y)))[:, 0]
    else:
        y = x[:, 0] if pool == "tok" else x.mean(1)
    if f"{path}pre_logits/kernel" in tensors:
        y = np.tanh(dense(tensors, f"{path}pre_logits", y))
    return x, dense(tensors, f"{path}head", y) if f"{path}head/kernel" in tensors else y


def score(tensors, tokens, image):
    """The scores of texts and images before the sigmoid."""
    tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
    x = tensors["txt/Embed_0/embedding"][tokens] + tensors["txt/pos_embedding"]
    text = dense(tensors, "txt/head", encoder(tensors, "txt/Encoder_0", x)[:, -1])
    looked = look(tensors, image, "map", "img/")[1]
    text, looked = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (text, looked))
    return np.exp(tensors["t"]) * (text @ looked.T) + tensors["b"]
