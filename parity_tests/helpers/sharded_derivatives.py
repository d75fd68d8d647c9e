"""Gradients, second derivatives and masked keys on two devices: the cases of `test_sharded_derivatives`.

`python -m parity_tests.helpers.sharded_derivatives jax PATH` runs them on two virtual devices, `torch` in two
processes. The results are saved in PATH.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

BATCH, HEADS, KV_HEADS, QUERY, KEY, HEAD_DIM, VALUE_DIM = 2, 4, 2, 4, 6, 3, 5
SHARED = ("query", "key", "value")  # sharded along their sequence
SCHEMES = ("ring", "all_to_all")


def draw(*shape, seed=0):
    """Reproducible random values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def arrays(*others):
    """The differentiable arrays; values have the size of keys, unless there is also a bias or sinks."""
    sizes = {
        "query": (BATCH, HEADS, QUERY, HEAD_DIM),
        "key": (BATCH, KV_HEADS, KEY, HEAD_DIM),
        "value": (BATCH, KV_HEADS, KEY, VALUE_DIM if others else HEAD_DIM),
        "bias": (1, HEADS, QUERY, KEY),
        "sinks": (HEADS,),
    }
    names = (*SHARED, *others)
    return {name: draw(*sizes[name], seed=number) for number, name in enumerate(names)}


def visible():
    """A mask with a fully masked row."""
    mask = np.random.default_rng(3).random((BATCH, 1, QUERY, KEY)) < 0.7
    mask[-1, :, 2] = False
    return mask


KEEP = np.random.default_rng(5).random((BATCH, HEADS, QUERY, KEY)) < 0.8


def far(mask):
    """Arrays whose masked keys have scores with an overflowing exponential."""
    given = arrays()
    given["query"] = np.abs(given["query"])
    hidden = ~mask.any((0, 1, 2))
    given["key"][:, :, hidden] = 1e4
    return given


PADDED = (
    np.arange(KEY) < np.array([5, 3])[:, None, None, None]
)  # the second device has no visible key of one text
# Cases of second derivatives: arrays and options.
TWICE: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
    "causal": (arrays(), {"is_causal": True, "query_offset": 2}),
    "everything": (
        arrays("bias", "sinks"),
        {"mask": visible(), "softcap": 2.0, "dropout_keep": KEEP, "dropout_rate": 0.2},
    ),
    "masked scores that overflow": (far(PADDED[1:]), {"mask": PADDED[1:]}),
}


def _bias():
    bias = draw(1, HEADS, QUERY, KEY, seed=9)
    bias[..., 3:] = -np.inf
    return bias


# Cases of fully masked keys: the options, and a boolean array of these keys.
DEAD: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "padding": ({"mask": PADDED}, ~PADDED[:, 0, 0]),
    "bias of -inf": ({"bias": _bias()}, np.broadcast_to(np.arange(KEY) >= 3, (BATCH, KEY))),
    "unwritten cache": ({"is_causal": True}, np.broadcast_to(np.arange(KEY) >= QUERY, (BATCH, KEY))),
}
HELD = {"NaN": np.nan, "inf": np.inf}


def filled(kind, held):
    """The arrays with that number in every fully masked key and value."""
    given, dead = arrays(), DEAD[kind][1]
    for name in ("key", "value"):
        given[name] = np.where(dead[:, None, :, None], held, given[name])
    return given


def cases():
    """Every case: its name, arrays and options, and whether second derivatives are computed."""
    for name, (given, options) in TWICE.items():
        yield name, given, options, True
    for kind, (options, _) in DEAD.items():
        for name, held in HELD.items():
            yield f"{kind}/{name}", filled(kind, held), options, False


def in_jax():
    """Every case on two virtual devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    from jax_attention import dot_product_attention
    from jax_attention.sharding import make_mesh, on_mesh, shard

    mesh = make_mesh({"sequence": 2})

    def derivatives(scheme, fixed, twice):
        def run(given, options):
            return dot_product_attention(**given, **options, **fixed, implementation=scheme)

        def first(given, options):
            return jax.grad(lambda given: jnp.sin(run(given, options)).sum())(given)

        def all_of_them(given, options):
            found = {"output": run(given, options), "gradient": first(given, options)}
            if twice:
                found["second"] = jax.grad(
                    lambda given: sum(jnp.cos(x).sum() for x in first(given, options).values())
                )(given)
            return found

        return jax.jit(all_of_them)

    found, compiled = {}, {}
    for scheme in SCHEMES:
        for name, given, options, twice in cases():
            kind = (scheme, name.partition("/")[0])
            fixed = {key: x for key, x in options.items() if not isinstance(x, np.ndarray)}
            options = {key: jnp.asarray(x) for key, x in options.items() if key not in fixed}
            with on_mesh(mesh):
                placed = {
                    key: shard(jnp.asarray(x), mesh, *((None, None, "sequence") if key in SHARED else ()))
                    for key, x in given.items()
                }
                run = compiled.setdefault(kind, derivatives(scheme, fixed, twice))
                results = run(placed, options)
            flat = {"output": results.pop("output")}
            flat |= {f"{order} {key}": x for order, group in results.items() for key, x in group.items()}
            found |= {f"{scheme}/{name}/{key}": np.asarray(x) for key, x in flat.items()}
    return found


def in_torch(rank, processes, path, store, control):
    """Every case, in one of several processes; the first process saves the results."""
    import torch
    import torch.distributed as dist

    from torch_attention import dot_product_attention
    from torch_attention.ops.distributed import collectives
    from torch_attention.sharding import make_mesh, on_mesh, shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    mesh = make_mesh({"sequence": processes})
    if control:  # a faulty backward pass, which leaves the gradients of sent arrays on the receiver

        def stay(ctx, *given):
            return None, None, *given

        collectives._Passed.backward = staticmethod(stay)

    def derivatives(scheme, given, options, twice):
        placed = {
            key: shard(torch.from_numpy(x), mesh, *((None, None, "sequence") if key in SHARED else ()))
            for key, x in given.items()
        }
        placed = {key: x.detach().requires_grad_() for key, x in placed.items()}
        output = dot_product_attention(**placed, **options, implementation=scheme)
        first = torch.autograd.grad(output.sin().sum(), list(placed.values()), create_graph=twice)
        found = {"output": output} | {f"gradient {key}": x for key, x in zip(placed, first, strict=True)}
        if twice:
            second = torch.autograd.grad(sum(x.cos().sum() for x in first), list(placed.values()))
            found |= {f"second {key}": x for key, x in zip(placed, second, strict=True)}
        return {key: x.detach().full_tensor().numpy() for key, x in found.items()}

    found = {}
    with on_mesh(mesh):
        for scheme in SCHEMES:
            for name, given, options, twice in cases():
                options = {
                    key: torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x
                    for key, x in options.items()
                }
                results = derivatives(scheme, given, options, twice)
                found |= {f"{scheme}/{name}/{key}": x for key, x in results.items()}
    if rank == 0:
        np.savez(path, **found)
    dist.destroy_process_group()


if __name__ == "__main__":
    mirror, path, *control = sys.argv[1:]
    if mirror == "jax":
        np.savez(path, **in_jax())
    else:
        import torch.multiprocessing

        import torch_attention.sharding  # noqa: F401 - imported once, before the processes fork

        store = Path(tempfile.mkdtemp()) / "store"
        given = (2, path, str(store), bool(control))
        torch.multiprocessing.start_processes(in_torch, given, nprocs=2, start_method="fork")
