"""Options of a port's submodule that differ from the reference's, and the port with the right ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple

from flax import nnx

# Names for the same option, as different libraries call it.
SAME = (
    ("eps", "epsilon", "variance_epsilon", "norm_eps", "layer_norm_eps", "rms_norm_eps"),
    ("base", "theta", "rope_theta", "rope_base", "rotary_base", "max_wavelength"),
    ("scale", "scaling", "softmax_scale", "scale_attn"),
    ("softcap", "attn_logit_softcapping", "logit_softcap", "logits_softcap"),
    ("num_heads", "n_heads", "n_head", "num_attention_heads", "heads"),
    ("num_kv_heads", "n_kv_heads", "num_key_value_heads", "kv_heads"),
    ("window", "sliding_window", "window_size"),
    ("is_causal", "causal"),
    ("offset", "position_offset"),
    ("activation", "act", "act_fn", "hidden_act", "activation_fn"),
)
MEANING = {name: row[0] for row in SAME for name in row}
PLAIN = (bool, int, float, str, type(None))
DEPTH = 3  # levels of objects without weights that are opened, such as rotary positions


class Option(NamedTuple):
    """An option of a port that differs.

    Attributes:
        holder: the object of the port that has it.
        name: the name of its attribute.
        given: its value.
        right: the value in the reference.
        path: where it is, for messages.
    """

    holder: Any
    name: str
    given: Any
    right: Any
    path: str

    @property
    def mistake(self) -> str:
        """The mistake, as the end of "the port ..."."""
        return f"has {self.path}={_shown(self.given)}, and the reference {_shown(self.right)}"

    @property
    def cure(self) -> str:
        """The fix."""
        return f"set {self.path} to {_shown(self.right)}"


def options(reference: Any, port: Any) -> list[Option]:
    """The options of two submodules that have different values."""
    return [*_options(reference, port, "", DEPTH)]


def _options(reference: Any, port: Any, path: str, depth: int) -> Iterator[Option]:
    ours, theirs = _attributes(reference), _attributes(port)
    for name, given in theirs.items():
        if name not in ours:
            continue
        right, where = ours[name][1], f"{path}{given[0]}"
        value = given[1]
        if isinstance(value, PLAIN) and isinstance(right, PLAIN):
            if value != right and not (value is None and right in (0, False)):
                yield Option(port, given[0], value, right, where)
        elif depth and _is_plain_object(value) and _is_plain_object(right):
            yield from _options(right, value, f"{where}.", depth - 1)


def _attributes(holder: Any) -> dict[str, tuple[str, Any]]:
    """The public attributes by meaning, each with its own name."""
    names = [*vars(holder), *getattr(holder, "_modules", ())] if hasattr(holder, "__dict__") else []
    names += [name for name in getattr(type(holder), "__dataclass_fields__", ()) if name not in names]
    return {
        MEANING.get(name, name): (name, getattr(holder, name))
        for name in names
        if not name.startswith("_") and name not in ("training", "rngs", "dtype", "param_dtype")
    }


def _is_plain_object(value: Any) -> bool:
    """Whether an object may hold options: it is no array, no function, and holds no submodules with weights."""
    return (
        hasattr(value, "__dict__")
        and not callable(getattr(value, "dtype", None))
        and not isinstance(value, (nnx.Variable, type, FunctionType))
        and not hasattr(value, "shape")
    )


@contextmanager
def set_to(chosen: list[Option]) -> Iterator[None]:
    """Give options the values of the reference while the context is active."""
    done: list[Option] = []
    try:
        for each in chosen:
            object.__setattr__(each.holder, each.name, each.right)
            done.append(each)
        yield
    finally:
        for each in done:
            object.__setattr__(each.holder, each.name, each.given)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
