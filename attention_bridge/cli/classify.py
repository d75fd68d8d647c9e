"""The command `classify`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from attention_bridge.cli.text_options import Directory, Dtype, Framework, Json, checked, open_model
from attention_bridge.errors import InputError, printable


def classify(
    directory: Directory,
    text: Annotated[str, typer.Argument(help="The text.")],
    pair: Annotated[str | None, typer.Argument(help="Second text, such as a hypothesis.")] = None,
    question: Annotated[
        str | None, typer.Option(help="Question that a part of the text answers, for question answering.")
    ] = None,
    framework: Framework = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Label a text or each of its tokens, or find the answer to a question in it, with a task head.

    Example: attention-bridge classify path/to/classifier "A wonderful film."
    """
    from attention_bridge.pretrained import text as texts
    from attention_bridge.pretrained.text import kinds

    checked("the text", text)
    model = open_model(directory, framework, dtype, "classify", kinds.CLASSIFIERS)
    kind = kinds.kind(model.model)
    if (kind == "QuestionAnswering") != (question is not None):
        needs = "must be given for" if question is None else "is only for"
        raise InputError(
            f"--question {needs} a model for question answering; {directory} holds {kinds.KINDS[kind][0]}"
        )
    if pair is not None and kind not in kinds.OF_SEQUENCES:
        raise InputError(f"a second text is only for a classifier; {directory} holds {kinds.KINDS[kind][0]}")
    if kind in kinds.OF_SEQUENCES:
        labels = texts.classify(model, text, pair)
        reply: dict[str, Any] = {"labels": [each._asdict() for each in labels]}
        lines = [f"{each.probability:8.4f}  {printable(each.label)}" for each in labels]
    elif kind == "TokenClassifier":
        tokens = texts.label_tokens(model, text)
        reply = {"tokens": [each._asdict() for each in tokens]}
        lines = [f"{x.probability:.4f}  {printable(x.token):16}  {printable(x.label)}" for x in tokens]
    else:
        found = texts.answer(model, checked("--question", question or ""), text)
        reply = {"answer": found._asdict()}
        lines = [f"{found.probability:.4f}  {printable(found.text)}"]
    reply["framework"] = model.framework
    typer.echo(json.dumps(reply, ensure_ascii=False) if as_json else "\n".join(lines))
