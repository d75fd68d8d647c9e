"""Check arguments of modules, functions and configurations against their annotations, before any arithmetic.

`checked` decorates a function, a module or a configuration; the annotations say which values are accepted:

| annotation                     | accepted                                                                  |
|--------------------------------|---------------------------------------------------------------------------|
| `Float[...]`, `Int[...]`, ...  | an array of this framework with a dtype of that kind                      |
| `int`                          | an integer of at least 1, unless `ranges` has another range for its name  |
| `float`                        | a finite number, in the range that `ranges` has for its name              |
| `bool`, `str`                  | True or False; a string                                                   |
| `tuple[...]`, `Sequence[...]`  | a list, a tuple or an array of rank 1, with the annotated length          |
| `Mapping[str, ...]`            | a mapping, such as a dictionary                                           |
| a class                        | an instance of that class                                                 |

NumPy scalars are converted to Python numbers, and lists to tuples. Arguments with other annotations are not checked.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import UnionType
from typing import Any, NamedTuple, TypeVar, Union, Unpack, get_args, get_origin, is_typeddict

from jax_attention.arrays import (
    ARRAYS,
    as_array,
    as_indices,
    check_array,
    check_dtype,
    check_promotion,
    is_integer,
)
from jax_attention.checks import check_boolean, check_floating, dtype_name
from jax_attention.ranges import article, as_flag, check_integer, check_number, refuse

FEATURES = (
    "x",
    "query",
    "key",
    "value",
    "memory",
    "image",
)  # inputs of modules, multiplied by their parameters
_Made = TypeVar("_Made", bound=Callable[..., Any])
_Check = Callable[[Any], Any]
DEFAULTS = {"dropout": 0.0, "need_weights": True}  # of arguments named by a `TypedDict`; None for all others


def checked(target: _Made) -> _Made:
    """Decorate a function or class so that its arguments are checked against their annotations.

    For a class, the arguments of its constructor and of its call are checked. For a function, arrays must also have
    the annotated axes, and axes of the same name must have the same size.
    """
    if inspect.isclass(target):
        for name in {"__init__", "forward", "__call__"} & vars(target).keys():
            setattr(target, name, checked(vars(target)[name]))
        return target
    signature = _by_name(inspect.signature(target))
    parameters = signature.parameters
    checks = {name: _check_of(x) for name, x in parameters.items()}
    in_order = [checks[name] for name, x in parameters.items() if x.kind is x.POSITIONAL_OR_KEYWORD]
    others = next((checks[name] for name, x in parameters.items() if x.kind is x.VAR_POSITIONAL), None)
    named = {name: check for name, check in checks.items() if check is not None}
    axes = {} if "self" in parameters else _axes_of(parameters)
    all_named = signature != inspect.signature(target)
    is_call = "self" in parameters and target.__name__ in ("forward", "__call__")
    features = [(i, name) for i, name in enumerate(parameters) if is_call and name in FEATURES]

    @wraps(target)
    def check_and_call(*args: Any, **kwargs: Any) -> Any:
        given = [x if check is None else check(x) for check, x in zip(in_order, args, strict=False)]
        more = args[len(in_order) :]
        given += more if others is None else [others(x) for x in more]
        named_given = {name: named[name](x) if name in named else x for name, x in kwargs.items()}
        if all_named and not named_given.keys() <= parameters.keys():
            unknown = next(name for name in named_given if name not in parameters)
            raise TypeError(f"{target.__name__}() got an unexpected keyword argument {unknown!r}")
        if axes:
            _check_axes(axes, {**dict(zip(parameters, given, strict=False)), **named_given})
        for i, name in features:
            check_promotion(given[0], name, given[i] if i < len(given) else named_given.get(name))
        return target(*given, **named_given)

    check_and_call.checks = checks  # type: ignore[attr-defined]
    check_and_call.__signature__ = signature  # type: ignore[attr-defined]
    return check_and_call  # type: ignore[return-value]


def _by_name(signature: inspect.Signature) -> inspect.Signature:
    """Replace `**kwargs: Unpack[TypedDict]` in a signature by the individual keyword arguments."""
    parameters = [x for x in signature.parameters.values() if x.kind is not x.VAR_KEYWORD]
    for x in signature.parameters.values():
        if x.kind is x.VAR_KEYWORD and get_origin(x.annotation) is Unpack:
            (names,) = get_args(x.annotation)
            parameters += [_keyword(name, kind, names) for name, kind in names.__annotations__.items()]
        elif x.kind is x.VAR_KEYWORD:
            parameters.append(x)
    return signature.replace(parameters=parameters)


def _keyword(name: str, kind: Any, names: Any) -> inspect.Parameter:
    absent = inspect.Parameter.empty if name in names.__required_keys__ else DEFAULTS.get(name)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=absent, annotation=kind)


def _check_of(parameter: inspect.Parameter) -> _Check | None:
    """Function that checks and returns an argument of that parameter; None where every value is accepted."""
    name, kind = parameter.name, parameter.annotation
    if kind is parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
        return None
    if name in ("dtype", "param_dtype"):
        optional = type(None) in get_args(kind)
        return lambda x: x if x is None and optional else check_dtype(name, x)
    return _check_of_kind(
        name.removesuffix("s") if parameter.kind is parameter.VAR_POSITIONAL else name, kind
    )


def _check_of_kind(name: str, kind: Any) -> _Check | None:
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return _check_of_union(name, list(get_args(kind)))
    if _is_array(kind):
        return _check_of_array(name, kind)
    if kind is bool:
        return lambda x: x if x is True or x is False else as_flag(name, x)
    if kind is int:
        return lambda x: check_integer(name, x)
    if kind is float:
        return lambda x: check_number(name, x)
    if get_origin(kind) in (tuple, Sequence):
        return _check_of_sequence(name, kind)
    if get_origin(kind) is Mapping:
        return lambda x: x if isinstance(x, Mapping) else refuse(name, "a mapping from names", x)
    if inspect.isclass(kind) and kind not in (object, Any) and not is_typeddict(kind):
        if getattr(kind, "_is_protocol", False):
            return lambda x: x if hasattr(x, "entries") else refuse(name, article(kind.__name__), x)
        what = "a string" if kind is str else article(kind.__name__)
        return lambda x: x if isinstance(x, kind) else _refuse_class(name, what, x, kind)
    return None


def _check_of_union(name: str, kinds: list[Any]) -> _Check | None:
    some = [x for x in kinds if x is not type(None)]
    checks = [check for check in (_check_of_kind(name, x) for x in some) if check is not None]
    nothing = len(some) < len(kinds)
    if len(checks) < len(some):
        return None
    if len(some) == 1:
        check = checks[0]
    elif any(map(_is_array, some)):
        of_array = next(each for each, x in zip(checks, some, strict=True) if _is_array(x))
        of_other = next(each for each, x in zip(checks, some, strict=True) if not _is_array(x))
        check = lambda x: of_array(x) if isinstance(x, ARRAYS) else of_other(x)  # noqa: E731
    elif all(inspect.isclass(x) and x not in (int, float, bool, str) for x in some):
        what = " or ".join(article(x.__name__) for x in some)
        check = lambda x: x if isinstance(x, tuple(some)) else _refuse_class(name, what, x, *some)  # noqa: E731
    else:
        return None
    return (lambda x: x if x is None else check(x)) if nothing else check


def _refuse_class(name: str, what: str, x: Any, *kinds: Any) -> Any:
    """Raise a TypeError with the expected class; for a class of the other mirror, also say how to convert it."""
    for kind in kinds:
        if _within_package(kind) == _within_package(type(x)):
            way = f"; convert it with {kind.__name__}.from_dict({name}.to_dict())"
            raise TypeError(
                f"{name} must be {what} of this package, got one of the other mirror"
                f"{way if hasattr(kind, 'from_dict') else ''}"
            )
    return refuse(name, what, x)


def _within_package(kind: type) -> tuple[str, str]:
    """Module path and name of a class within its package, which are the same in both mirrors."""
    return kind.__module__.partition(".")[2], kind.__name__


def _check_of_array(name: str, kind: Any) -> _Check:
    dtypes = getattr(kind, "dtypes", ())
    accept: Callable[[str, Any], None] = check_array
    if isinstance(dtypes, tuple) and "float32" in dtypes:
        accept = check_floating
    elif isinstance(dtypes, tuple) and "bool" in dtypes:
        accept = check_boolean
    elif isinstance(dtypes, tuple) and "int32" in dtypes:
        accept = _check_integers

    as_own = as_indices if accept is _check_integers else as_array

    def check(x: Any) -> Any:
        accept(name, x)
        return as_own(x)

    return check


def _check_integers(name: str, x: Any) -> None:
    check_array(name, x)
    if not is_integer(x):
        raise TypeError(f"{name} must hold integers, got {dtype_name(x)}")


def _check_of_sequence(name: str, kind: Any) -> _Check:
    elements = get_args(kind)
    count = None if get_origin(kind) is Sequence or elements[-1:] == (Ellipsis,) else len(elements)
    of_element = _check_of_kind(name, elements[0])

    def check(x: Any) -> Any:
        if getattr(x, "ndim", None) == 1:
            x = x.tolist()
        if isinstance(x, str | bytes) or not isinstance(x, Sequence):
            refuse(name, "a sequence", x)
        if count is not None and len(x) != count:
            raise ValueError(f"{name} must hold {count} values, got {len(x)}")
        return tuple(x) if of_element is None else tuple([of_element(each) for each in x])

    return check


class _Axes(NamedTuple):
    """Named axes of an annotation: axes before and after `...`, and whether there is a `...`."""

    before: tuple[str, ...]
    rest: bool
    behind: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join((*self.before, *(["..."] if self.rest else []), *self.behind)).replace("#", "")


def _axes_of(parameters: Mapping[str, inspect.Parameter]) -> dict[str, _Axes]:
    """Named axes of each parameter that is annotated as an array."""
    found = {}
    for name, parameter in parameters.items():
        kind = parameter.annotation
        kind = next(filter(_is_array, get_args(kind)), kind) if isinstance(kind, UnionType) else kind
        if hasattr(kind, "dim_str") and parameter.kind is not parameter.VAR_POSITIONAL:
            words = tuple(kind.dim_str.split())
            rest = next((i for i, word in enumerate(words) if word.lstrip("#")[0] in "*."), None)
            if rest is None:
                found[name] = _Axes(words, False, ())
            else:
                found[name] = _Axes(words[:rest], True, words[rest + 1 :])
    return found


def _check_axes(axes: dict[str, _Axes], given: dict[str, Any]) -> None:
    """Raise ValueError unless each array has the annotated axes, and axes of the same name have the same size."""
    sizes: dict[str, Any] = {}
    for name, named in axes.items():
        before, rest, behind = named
        x = given.get(name)
        if x is None or not isinstance(x, ARRAYS):
            continue
        shape, least = x.shape, len(before) + len(behind)
        if len(shape) < least or (len(shape) > least and not rest):
            raise ValueError(f"{name} must have shape ({named}), got {tuple(shape)}")
        ends = shape[len(shape) - len(behind) :] if behind else ()
        for word, size in (*zip(before, shape, strict=False), *zip(behind, ends, strict=True)):
            if word.isidentifier() and word != "_" and sizes.setdefault(word, size) != size:
                raise ValueError(f"{name} must have {word}={sizes[word]} as the others, got {tuple(shape)}")


def _is_array(kind: Any) -> bool:
    return kind in ARRAYS or hasattr(kind, "array_type")
