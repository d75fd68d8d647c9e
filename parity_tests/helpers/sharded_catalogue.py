"""Every mechanism of the catalogue sharded in PyTorch, for `test_sharding.py`.

`python -m parity_tests.helpers.sharded_catalogue AXIS COUNT` shards one mesh axis over COUNT processes, and prints a
line per mechanism: its name and the largest error against one device.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing

from attention_bridge.catalogue import CATALOGUE
from attention_bridge.catalogue.part import build
from attention_bridge.parity.comparison import gradient_scales
from attention_bridge.parity.instances import inputs, parameters
from attention_bridge.parity.measure import error
from attention_bridge.weights import transfer
from parity_tests.helpers.sharded import outputs_and_gradients
from torch_attention.sharding import make_mesh, on_mesh, shard, shard_model


def made(mechanism):
    """The mechanism with the weights of the proof."""
    module = build(mechanism.module, "torch_attention", {"dtype": torch.float64})
    return transfer(parameters(mechanism), module.eval())


def given(mechanism):
    """The inputs of the mechanism; token numbers are int64."""
    arrays = inputs(mechanism, "none")
    found = {key: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for key, x in arrays.items()}
    return {key: x.long() if torch.is_tensor(x) and x.dtype == torch.int32 else x for key, x in found.items()}


def largest_error(mechanism, mesh):
    """The largest error of an output or a gradient on the mesh, against one device."""

    def numbers(results):
        return {key: x.detach().numpy() for key, x in results.items()}

    expected = numbers(outputs_and_gradients(made(mechanism), given(mechanism)))
    sharded = shard_model(made(mechanism), mesh)
    with on_mesh(mesh):
        arrays = {
            key: shard(x, mesh, "data", "sequence") if torch.is_tensor(x) else x
            for key, x in given(mechanism).items()
        }
        found = numbers(outputs_and_gradients(sharded, arrays))
    scales = gradient_scales(expected)
    return max(error(found[key], x, scales[key]) for key, x in expected.items())


def run(rank, axis, count, store):
    """Every mechanism, in one of several processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    mesh = make_mesh({axis: count})
    for mechanism in CATALOGUE:
        try:
            printed = f"{largest_error(mechanism, mesh):.1e}"
        except (RuntimeError, NotImplementedError) as failure:
            printed = str(failure).partition("\n")[0]
        if rank == 0:
            print(mechanism.name, printed, sep=" | ", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    axis, count = sys.argv[1], int(sys.argv[2])
    store = Path(tempfile.mkdtemp()) / "store"
    torch.multiprocessing.start_processes(run, (axis, count, str(store)), nprocs=count, start_method="fork")
