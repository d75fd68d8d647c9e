"""What joins `torch_attention` and `jax_attention`: weights, checkpoints, proofs of parity, pictures, the command."""
