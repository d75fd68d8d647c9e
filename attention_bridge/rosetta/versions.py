"""The package versions that the facts hold for."""

VERSIONS = {
    "torch": "2.13.0",
    "jax": "0.10.2",
    "flax": "0.12.8",
    "keras": "3.15.1",
    "equinox": "0.13.8",
    "dm-haiku": "0.0.17",
    "x-transformers": "2.31.10",
    "transformers": "5.23.0",
    "optax": "0.2.8",
}
