"""Scan of a pickle's opcodes, without executing them, for content that would silently give wrong tensors.

Unpickling keeps only the last value of a duplicate key, and PyTorch replaces impossible strides.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

REBUILDING = (
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
)
MOST_LEVELS = 100
_MARK = object()


class _Thing:
    """Placeholder for an object of a pickle; it records only the keys that are set on it."""

    def __init__(self, called: str = "") -> None:
        self.called = called
        self.keys: set[Any] = set()

    def add(self, key: Any) -> None:
        if isinstance(key, str | int | float | tuple):
            if key in self.keys:
                raise ValueError(f"its pickle gives the key {key!r:.100} twice")
            self.keys.add(key)


def scan(file: IO[bytes]) -> None:
    """Scan one pickle to its end.

    Raises:
        ValueError: a dictionary has a duplicate key, a tensor has a negative size, stride or offset, or the pickle is
            damaged.
    """
    try:
        _follow(file)
    except (LookupError, ArithmeticError, TypeError) as error:  # an opcode uses a value that does not exist
        raise ValueError("its pickle is damaged") from error


def _follow(file: IO[bytes]) -> None:
    stack: list[Any] = []
    marks: list[int] = []  # their positions in the stack
    memo: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        if name == "MARK":
            marks.append(len(stack))
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            items = _popped(stack, marks, operation)
            results = STEPS.get(name, _other)(items, argument)
            stack += results if results is not None else [_Thing() for _ in operation.stack_after]


def _popped(stack: list[Any], marks: list[int], operation: pickletools.OpcodeInfo) -> list[Any]:
    """Pop the operands of an operation: a fixed number, and all above the last mark if it takes a mark."""
    before = operation.stack_before
    above: list[Any] = []
    count = len(before)
    if pickletools.markobject in before:
        count = before.index(pickletools.markobject)
        at = marks.pop()
        above = stack[at + 1 :]
        del stack[at:]
    if count > len(stack):
        raise ValueError("its pickle pops more values than its stack has")
    below = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    while marks and marks[-1] >= len(stack):
        marks.pop()
    return below + above


class _Tuple(tuple[Any, ...]):
    """A tuple that records its nesting depth: hashing a very deep tuple would crash Python."""

    levels = 1


def _tuple(items: list[Any], _: Any) -> list[Any]:
    made = _Tuple(items)
    made.levels = 1 + max((item.levels for item in items if isinstance(item, _Tuple)), default=0)
    if made.levels > MOST_LEVELS:
        raise ValueError(f"its pickle nests more than {MOST_LEVELS} levels")
    return [made]


def _other(items: list[Any], argument: Any) -> list[Any] | None:
    return [argument] if not items and isinstance(argument, str | int | float) else None


def _first(items: list[Any], _: Any) -> list[Any]:
    return items[:1]


def _with_keys(items: list[Any], _: Any) -> list[Any]:
    target, *pairs = items
    for key in pairs[::2]:
        if isinstance(target, _Thing):
            target.add(key)
    return [target]


def _new_with_keys(items: list[Any], _: Any) -> list[Any]:
    return _with_keys([_Thing(), *items], None)


def _called(items: list[Any], argument: Any) -> list[Any]:
    return [_Thing(argument if isinstance(argument, str) else " ".join(map(str, items)))]


def _reduced(items: list[Any], _: Any) -> list[Any]:
    function, arguments = items
    if isinstance(function, _Thing) and function.called in REBUILDING and isinstance(arguments, tuple):
        for numbers in arguments[1:4]:
            for number in numbers if isinstance(numbers, tuple) else (numbers,):
                if type(number) is int and number < 0:
                    raise ValueError(
                        f"its pickle gives a tensor the negative size, stride or offset {number}"
                    )
    return [_Thing()]


# Effects of opcodes on the stack, other than pushing new objects.
STEPS: dict[str, Callable[[list[Any], Any], list[Any] | None]] = {
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"), _tuple),
    **dict.fromkeys(("SETITEM", "SETITEMS"), _with_keys),
    **dict.fromkeys(("APPEND", "APPENDS", "ADDITEMS", "BUILD"), _first),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _called),
    "DICT": _new_with_keys,
    "REDUCE": _reduced,
    "NEWTRUE": lambda items, _: [True],
    "NEWFALSE": lambda items, _: [False],
}
