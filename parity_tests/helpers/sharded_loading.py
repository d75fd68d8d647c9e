"""Loading of a checkpoint onto several devices, in processes of its own.

`python -m parity_tests.helpers.sharded_loading jax DIRECTORY PATH` loads it onto 2 virtual devices, `torch` in 2
processes that communicate through gloo. Logits and the parts that each device holds are saved in PATH.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

TOKENS = np.array([[3, 7, 2, 9]], np.int32)
DEVICES = 2


def in_jax(directory, path):
    """Load onto 2 virtual devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", DEVICES)
    import jax.numpy as jnp

    from attention_bridge.pretrained import load_pretrained
    from jax_attention.sharding import make_mesh, on_mesh

    mesh = make_mesh({"model": DEVICES})
    model = load_pretrained(directory, "jax", mesh=mesh)
    kernel = model.layers[0].ffn.up_proj.kernel[...]
    parts = [np.asarray(part.data).T for part in kernel.addressable_shards]
    with on_mesh(mesh):
        logits = model(jnp.asarray(TOKENS)).logits
    np.savez(path, logits=np.asarray(logits), **{f"part{n}": part for n, part in enumerate(parts)})


def in_torch(rank, directory, path, store):
    """Load in one of 2 processes."""
    import torch
    import torch.distributed as dist

    from attention_bridge.pretrained import load_pretrained
    from torch_attention.sharding import make_mesh, on_mesh

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=DEVICES)
    mesh = make_mesh({"model": DEVICES})
    model = load_pretrained(directory, "torch", mesh=mesh)
    local = model.layers[0].ffn.up_proj.weight.to_local().detach()
    parts = [torch.empty_like(local) for _ in range(DEVICES)]
    dist.all_gather(parts, local)
    with on_mesh(mesh), torch.no_grad():
        logits = model(torch.from_numpy(TOKENS)).logits
        logits = logits.full_tensor() if hasattr(logits, "full_tensor") else logits
    if rank == 0:
        np.savez(path, logits=logits.numpy(), **{f"part{n}": part.numpy() for n, part in enumerate(parts)})
    dist.destroy_process_group()


def main(framework, directory, path):
    """Load in one framework."""
    if framework == "jax":
        in_jax(directory, path)
        return
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(in_torch, (directory, path, str(Path(folder) / "store")), nprocs=DEVICES)


if __name__ == "__main__":
    main(*sys.argv[1:])
