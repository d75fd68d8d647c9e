"""Port a layer from PyTorch to JAX, check that outputs and gradients agree, and find a forgotten transpose.

python examples/port_multihead_attention.py
"""

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from attention_bridge.parity.comparison import assert_parity
from attention_bridge.weights import plan, transfer
from jax_attention import MultiHeadSelfAttention as JaxAttention
from torch_attention import MultiHeadSelfAttention as TorchAttention

EMBED_DIM, NUM_HEADS = 12, 3


def main() -> None:
    """Port a layer, run it, check it, and break it."""
    torch.manual_seed(0)
    trained = torch.nn.MultiheadAttention(EMBED_DIM, NUM_HEADS, batch_first=True)
    ported = JaxAttention(EMBED_DIM, NUM_HEADS, rngs=nnx.Rngs(0))

    print("The plan of the conversion:\n")
    print(plan(trained, ported))
    transfer(trained, ported)

    x = np.random.default_rng(0).standard_normal((2, 5, EMBED_DIM)).astype(np.float32)
    causal = np.tril(np.ones((5, 5), dtype=bool))
    tensor = torch.from_numpy(x)
    # In torch.nn.MultiheadAttention True masks a key; in the mirrors True means that the query attends to it.
    theirs, _ = trained(tensor, tensor, tensor, attn_mask=torch.from_numpy(~causal))
    ours, weights = ported(jnp.asarray(x), jnp.asarray(causal))
    difference = np.abs(theirs.detach().numpy() - np.asarray(ours)).max()
    print(f"\nlargest difference of the outputs: {difference:.0e}")
    print(f"shape of the attention weights of all heads: {weights.shape}")

    mirror = transfer(trained, TorchAttention(EMBED_DIM, NUM_HEADS))
    assert_parity(mirror, ported, x, causal)
    print("proven: outputs, weights and gradients are the same in both frameworks")

    ported.k_proj.kernel[...] = ported.k_proj.kernel[...].T
    try:
        assert_parity(mirror, ported, x, causal)
    except AssertionError as error:
        print(f"\nand with one matrix transposed: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
