"""Rendering of a chat template in jinja2's sandbox. As a script, it renders one request in a separate process.

It imports only jinja2, so that the script runs with `python -I`, without the project on the path. The environment has
the filters, functions and tags that transformers gives to chat templates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

LONGEST = 2**22  # characters of the result
MEMORY = 2**30  # bytes of the process, where the system can limit them


class RefusedError(Exception):
    """The template called `raise_exception`."""


def render(template: str, messages: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    """Render a chat template, with a prompt for the reply.

    Args:
        template: source of the template.
        messages: dictionaries with `role` and `content`.
        words: special tokens by name, such as `bos_token`.

    Raises:
        RefusedError: the template refuses the messages.
        ValueError: the result is too long.
        jinja2.TemplateError: the template is not valid, or does something that the sandbox forbids.
    """
    parts, length = [], 0
    program = environment().from_string(template)
    for part in program.generate(
        messages=messages, tools=None, documents=None, add_generation_prompt=True, **words
    ):
        length += len(part)
        if length > LONGEST:
            raise ValueError(f"its result must have at most {LONGEST} characters, got more")
        parts.append(part)
    return "".join(parts)


def environment() -> Any:
    """The sandboxed environment of chat templates."""
    from jinja2 import ext, nodes, utils
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """The tag `generation`, which marks the assistant's text for training and renders only its content."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

        def _render(self, caller: Any) -> Any:
            return caller()

    class Namespace(utils.Namespace):
        """A namespace without private attributes."""

        def __init__(*arguments: Any, **attributes: Any) -> None:
            itself, *given = arguments
            found = dict(*given, **attributes)
            for name in found:
                check_name(name)
            utils.Namespace.__init__(itself, found)

        def __setitem__(self, name: str, value: Any) -> None:
            check_name(name)
            super().__setitem__(name, value)

    def check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace must have no attribute {name!r}")

    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    found.filters["tojson"] = to_json
    found.globals.update(raise_exception=refuse, strftime_now=now, dict=dictionary, namespace=Namespace)
    return found


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Convert a value to JSON, without the escapes of HTML that jinja2's own filter writes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def refuse(message: Any) -> None:
    """Stop with a message about the conversation."""
    raise RefusedError(message)


def now(form: str) -> str:
    """The present local time, such as `%d %b %Y`."""
    return datetime.now().strftime(form)


def dictionary(*arguments: Any, **named: Any) -> dict[Any, Any]:
    """A new dictionary; a template cannot reach the class itself."""
    return dict(*arguments, **named)


def limit_memory() -> None:
    """Limit the memory of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (OSError, ValueError):  # macOS limits no address space
        return


def main(path: str) -> None:
    """Render the request in a JSON file, and print the reply in JSON."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        request = json.load(file)
    limit_memory()
    try:
        reply = {"text": render(request["template"], request["messages"], request["words"])}
    except RefusedError as error:
        reply = {"refusal": str(error)}
    except MemoryError:
        reply = {"error": f"it must take at most {MEMORY >> 20} MiB of memory, but takes more"}
    except RecursionError:
        reply = {"error": "it calls itself too often"}
    except Exception as error:  # a template can raise the exceptions of any operation
        reply = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply))


if __name__ == "__main__":
    sys.path.extend(sys.argv[2:])
    main(sys.argv[1])
