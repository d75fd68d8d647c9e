"""The command `generate`."""

from __future__ import annotations

import json
import secrets
import sys
from typing import TYPE_CHECKING, Annotated
from unicodedata import category

import typer

from attention_bridge.cli.choices import options
from attention_bridge.cli.progress import warn
from attention_bridge.cli.text_options import Directory, Dtype, Framework, Json, checked, open_model
from attention_bridge.errors import InputError, cut, printable

if TYPE_CHECKING:
    from attention_bridge.pretrained.text.chat import ChatTemplate


def generate(
    directory: Directory,
    prompt: Annotated[str, typer.Argument(help="Text to continue, or source of an encoder-decoder.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Apply the chat template of the directory to the prompt.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of new tokens.", show_default="64")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Divisor of the scores before sampling; 0 for greedy decoding.")
    ] = 0.0,
    top_k: Annotated[
        int | None, typer.Option(help="Number of most probable tokens to sample from.", show_default="all")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Total probability of the most probable tokens to sample from.", show_default="all"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the random numbers.", show_default="random, and printed")
    ] = None,
    framework: Framework = None,
    dtype: Dtype = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no hints on stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Continue a prompt with a language model, or write the target of an encoder-decoder, token by token.

    Example: attention-bridge generate path/to/gpt2 "Attention is" --max-new-tokens 20
    """
    from attention_bridge.pretrained import text
    from attention_bridge.pretrained.text import kinds
    from attention_bridge.pretrained.text.chat import has_template, messages
    from attention_bridge.pretrained.text.generation_fields import hints

    say = (lambda line: None) if quiet else _hint
    if system is not None and not chat:
        raise InputError("--system needs --chat, which applies the chat template")
    if temperature > 0 and seed is None:
        seed = secrets.randbelow(2**31)
        say(f"--seed {seed}")
    checked("the prompt", prompt)
    if chat:
        given = _template(directory).render(messages(prompt, system))
    else:
        given = prompt
        if has_template(directory):
            say("this model has a chat template; --chat applies it")
    model = open_model(
        directory, framework, dtype, "generate", kinds.WRITERS, warning=(lambda line: None) if quiet else warn
    )
    settings = text.Settings(max_new_tokens, temperature, top_k, top_p, seed)
    for line in hints(model, is_greedy=temperature == 0):
        say(line)
    names = {"num_tokens": "--max-new-tokens", "top_k": "--top-k", "top_p": "--top-p"}
    with options(**names, temperature="--temperature", seed="--seed"):
        found = text.generate(model, given, settings, is_chat=chat, stream=None if as_json else _stream)
    if as_json:
        reply = {"prompt": given, **found._asdict(), "framework": model.framework, "seed": seed}
        typer.echo(json.dumps(reply, ensure_ascii=False))
    else:
        typer.echo()


def _template(directory: Directory) -> ChatTemplate:
    from attention_bridge.pretrained.text.chat import ChatTemplate
    from attention_bridge.pretrained.text.special_words import SpecialWords
    from attention_bridge.pretrained.text.tokenizer_files import TokenizerFiles

    found = ChatTemplate.open(directory, SpecialWords.read(TokenizerFiles.open(directory)).named)
    if found is None:
        raise InputError(f"--chat needs a chat template, and {directory} has none")
    return found


def _hint(line: str) -> None:
    typer.echo(f"attention-bridge: {cut(printable(f'hint: {line}'))}", err=True)


def _stream(piece: str) -> None:
    typer.echo(_harmless(piece) if sys.stdout.isatty() else piece, nl=False)


def _harmless(text: str) -> str:
    """The text with control characters escaped, which could command a terminal."""
    return "".join(repr(c)[1:-1] if category(c) == "Cc" and c not in "\n\t" else c for c in text)
