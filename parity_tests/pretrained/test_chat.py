"""Chat templates render as `apply_chat_template` of transformers does, in a sandbox with limits."""

import json

import pytest
from transformers import AutoTokenizer

from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.text import chat, chat_rendering
from attention_bridge.pretrained.text.chat import ChatTemplate, messages
from attention_bridge.pretrained.text.tokenizer import Tokenizer
from parity_tests.helpers import tiny_tokenizers as tiny

TEMPLATES = {
    "ChatML": """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}""",
    "Llama": """{{ bos_token }}
{% if not date_string is defined %}
    {% set date_string = strftime_now("%d %b %Y") %}
{% endif %}
Today: {{ date_string }}
{% for message in messages %}
    {% if loop.first and message['role'] == 'system' %}
        {% continue %}
    {% endif %}
    {{ message['content'] }} {{ eos_token }}
    {% if loop.index > 3 %}{% break %}{% endif %}
{% endfor %}
  {% generation %}reply{% endgeneration %}
""",
    "JSON": """{% set ns = namespace(found=false, text='') %}
{% for m in messages %}{% set ns.found = true %}{% set ns.text = ns.text ~ m | tojson(indent=2) %}{% endfor %}
{{ ns.text }}{{ dict(a="<é>&'") | tojson }}{{ tools is none }}{{ documents is none }}{{ unknown }}""",
    "macro": """{% macro say(x, n=2) %}{{ x.upper() }}:{{ n }}{% endmacro %}
{% for role, group in messages | groupby('role') %}{{ say(role) }}{{ group | map(attribute='content') | join('+') }}
{% endfor %}{{ messages[-1]['content'].split(' ')[-1][::-1] }}{{ range(3) | list }}""",
}
PROMPTS = [("Who wrote <Hamlet> & why?", None), ("  two\n lines é 東京 ", "Answer 'briefly'.")]


def tokenizer_with(directory, template, *, named=False, file=False):
    """A Llama-3-like tokenizer with a template in one of its three places."""
    tiny.llama3(directory)
    given = (
        [{"name": "other", "template": "x"}, {"name": "default", "template": template}] if named else template
    )
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
    }
    tiny.write(directory, "llama", **fields, **({} if file else {"chat_template": given}))
    if file:
        (directory / "chat_template.jinja").write_text(template)


@pytest.mark.parametrize("place", ["field", "list", "file"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_and_ids_are_equal_to_transformers(tmp_path, name, place):
    tokenizer_with(tmp_path, TEMPLATES[name], named=place == "list", file=place == "file")
    reference, tokenizer = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.open(tmp_path)
    template = ChatTemplate.open(tmp_path, tokenizer.words.named)
    assert template is not None
    for prompt, system in PROMPTS:
        given = messages(prompt, system)
        expected = reference.apply_chat_template(given, add_generation_prompt=True, tokenize=False)
        assert chat_rendering.render(template.source, given, template.words) == expected
        ids = tokenizer.encode([expected], add_special_tokens=False).ids[0].tolist()
        assert ids == reference.apply_chat_template(given, add_generation_prompt=True)["input_ids"]
    assert template.render(given) == expected  # in its process


def test_file_has_precedence_over_the_field(tmp_path):
    tokenizer_with(tmp_path, "field")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert ChatTemplate.open(tmp_path, {}).source == "file"
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == "file"


def test_directory_without_a_template_gives_none(tmp_path):
    assert ChatTemplate.open(tmp_path, {}) is None


def template_of(tmp_path, text):
    return ChatTemplate(tmp_path, text, {"bos_token": "<s>"})


def test_refusal_of_the_messages_is_given(tmp_path):
    text = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="refuses the messages: roles must alternate"):
        template_of(tmp_path, text).render(messages("Hi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError|UndefinedError"),
        ("{{ dict.__base__ }}{{ dict.__base__.x }}", "SecurityError|UndefinedError"),
        ("{% set ns = namespace(_x=1) %}", "SecurityError"),
        ("{% include 'other' %}", "no loader|TypeError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ range(100001) }}", "OverflowError"),
        ("{{ 'x' * 10000000000 }}", "1024 MiB of memory"),
        ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "at most 4194304 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself too often"),
    ],
)
def test_template_cannot_run_code_or_exceed_its_limits(tmp_path, text, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        template_of(tmp_path, text).render(messages("Hi"))
    assert "\n" not in str(caught.value)


def test_template_that_loops_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "DEADLINE", 1.0)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(CheckpointError, match="must end within 1 s"):
        template_of(tmp_path, loops).render(messages("Hi"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [{"name": "tool_use", "template": "x"}],
            "has the chat templates tool_use, but none with the name default",
        ),
        (3, "must give chat_template as text"),
        ([{"name": "default"}], "must give chat_template as text"),
        ("x" * (2**20 + 1), "at most 1048576 bytes"),
    ],
)
def test_unusable_templates_are_refused(tmp_path, given, message):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
    with pytest.raises(CheckpointError, match=message):
        ChatTemplate.open(tmp_path, {})


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("attention_bridge.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"jinja2; install them with: .* extra \[text\]"):
        template_of(tmp_path, "x").render(messages("Hi"))
