"""Valid ranges of integer and float arguments, by argument name, the same in all signatures."""

import sys
from numbers import Integral, Real
from typing import Any

import numpy as np

from jax_attention.arrays import REALS, is_size

LENGTHS = ("batch", "count", "height", "key_len", "length", "new", "prefix_len", "query_len", "width")
LAYERS = ("num_decoder_layers", "num_dense_layers", "num_encoder_layers", "num_layers")
PARTS = (
    "global_blocks",
    "num_blocks",
    "num_chunks",
    "num_prefix",
    "num_random",
    "num_registers",
    "num_sinks",
    "num_types",
    "padding",
)
PLACES = (
    "active",
    "bos",
    "decoder_start",
    "depth",
    "eos",
    "eos_tokens",
    "first_position",
    "kv_layer",
    "max_first",
    "pad",
    "seed",
    "shift",
    "skip",
    "suppressed",
    "suppressed_first",
    "uncounted_token",
)
FROM_ZERO = frozenset((*LENGTHS, *LAYERS, *PARTS, *PLACES))  # all other integers count from 1
TOKENS = ("end_token", "pad_id", "pad_token")
ANY_INTEGER = frozenset((*TOKENS, "axes", "distance", "query_offset", "table"))
NOT_NEGATIVE = ("eps", "norm_eps", "std")
ABOVE_ZERO = ("base", "factor", "gate_temperature", "logit_softcap", "max_scale", "rope_base", "softcap")
ANY_NUMBER = ("fill",)  # infinities too, as fill values of absent entries
RATES = {"dropout": "dropout", "rate": "dropout", "dropout_rate": "dropout_rate"}
LARGEST_SIZE = 2**31 - 1
LARGEST_INTEGER = 2**63 - 1


def check_integer(name: str, value: Any) -> Any:
    """Return an integer argument; TypeError unless it is an integer, ValueError if it is outside its name's range."""
    least, most = 0 if name in FROM_ZERO else 1, LARGEST_INTEGER if name == "seed" else LARGEST_SIZE
    if name in ANY_INTEGER:
        least, most = -LARGEST_INTEGER, LARGEST_INTEGER
    if not is_size(value):
        return refuse(name, "an integer", value)
    if not isinstance(value, Integral):  # a symbolic size of traced code
        return value
    given: Any = value.item() if isinstance(value, np.generic) else value
    if given < least:
        note = " (it counts the query's own key)" if name == "window" else ""
        raise ValueError(f"{name} must be at least {least}{note}, got {shown(given)}")
    if given > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(given)}")
    return given


def check_number(name: str, value: Any) -> Any:
    """Return a number argument; TypeError unless it is a number, ValueError if it is outside its name's range."""
    if isinstance(value, bool) or not isinstance(value, REALS):
        return refuse(name, "a number", value)
    if not isinstance(value, Real):  # a symbolic number of traced code
        return value
    value = value.item() if isinstance(value, np.generic) else value
    if name in RATES and not 0 <= value < 1:
        raise ValueError(f"{RATES[name]} must be at least 0 and below 1, got {shown(value)}")
    if name in ANY_NUMBER and value in (float("inf"), -float("inf")):
        return value
    if not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    if name in NOT_NEGATIVE and value < 0:
        raise ValueError(f"{name} must be at least 0, got {shown(value)}")
    if name in ABOVE_ZERO and value <= 0:
        raise ValueError(f"{name} must be above 0, got {shown(value)}")
    return value if type(value) in (int, float) else float(value)


def as_flag(name: str, value: Any) -> bool:
    """Return a boolean argument; TypeError unless it is True or False."""
    return bool(value) if isinstance(value, bool | np.bool_) else refuse(name, "True or False", value)


def refuse(name: str, expected: str, value: Any) -> Any:
    """Raise a TypeError with the expected kind of value and the given one."""
    plain = value is None or isinstance(value, bool | int | float | complex | str)
    array = hasattr(value, "shape") and not isinstance(value, np.generic)
    kind = "an array" if array else type(value).__name__
    raise TypeError(f"{name} must be {expected}, got {shown(value) if plain else kind}")


def shown(value: Any) -> str:
    """Text of a value for an error message, shortened if it is long."""
    if isinstance(value, Integral) and abs(int(value)) > LARGEST_INTEGER:
        return "an integer of more than 64 bits"
    text = str(value) if isinstance(value, Real) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def article(word: str) -> str:
    """Prepend the indefinite article to the name of a class."""
    return f"an {word}" if word[0] in "AEIO" else f"a {word}"
