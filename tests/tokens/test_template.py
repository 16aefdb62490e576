"""Rendering: the same text as transformers, the same errors as jinja, no way out of the sandbox."""

import json
from datetime import datetime

import pytest

from penala.errors import TokensError
from penala.tokens.template import ChatTemplate, message_dict, read_sources

USER = [{"role": "user", "content": "Hi"}]
LONG = [
    {"role": "user", "content": "Apa khabar? <b>&'\"\n"},
    {"role": "assistant", "content": "Khabar baik 咖啡"},
    {"role": "user", "content": " and\n\nthen? "},
    {"role": "assistant", "content": "Then."},
]


@pytest.fixture(scope="module")
def reference(folder_of):
    """The tokenizer of transformers for a family, by name."""
    from transformers import PreTrainedTokenizerFast

    return lambda name: PreTrainedTokenizerFast.from_pretrained(folder_of(name))


def rendered(source, messages=USER, **options):
    return ChatTemplate({"default": source}, {"bos_token": "<s>"}).render(messages, **options)


def test_text_and_ids_are_those_of_transformers(family, tokenizer_of, reference):
    """For ordinary texts, a conversation and a prompt have the text and the ids that every other server sees."""
    tokenizer, other = tokenizer_of(family.name), reference(family.name)
    for messages, prompt in ((LONG, False), (LONG[:3], True), (LONG[:1], True)):
        text = other.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        ids = other.apply_chat_template(messages, return_dict=False, add_generation_prompt=prompt)

        assert tokenizer.render(messages, add_generation_prompt=prompt) == text
        assert tokenizer.ids(messages, add_generation_prompt=prompt) == ids


def test_tools_are_rendered_as_by_transformers(tokenizer_of, reference):
    """Tool definitions, calls and results reach the template as plain JSON, non-ASCII text as it is."""
    tools = [{"type": "function", "function": {"name": "harga", "description": "Harga — 価格", "parameters": {}}}]
    call = {"type": "function", "function": {"name": "harga", "arguments": {"menu": "kopi ☕"}}}
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "RM 2"}]

    text = tokenizer_of("qwen2.5").render(messages, tools=tools)

    assert text == reference("qwen2.5").apply_chat_template(messages, tools=tools, tokenize=False)
    assert "Harga — 価格" in text
    assert '{"menu": "kopi ☕"}' in text


def test_what_templates_lean_on_is_there():
    """Blocks are trimmed, loops break, the clock is told, tojson indents, generation tags are as if not there."""
    assert rendered("{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}") == "x\n"
    assert rendered("{% for n in [1, 2, 3] %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}") == "1"
    assert rendered("{{ strftime_now('%d %b %Y') }}", now=datetime(2024, 7, 26)) == "26 Jul 2024"
    assert rendered("{{ {'a': '<é>'} | tojson(indent=2) }}") == '{\n  "a": "<é>"\n}'
    assert rendered("{{ bos_token }}{% generation %}{{ messages[0].content }}{% endgeneration %}!") == "<s>Hi!"
    assert rendered("{% if documents is none and tools is none %}none{% endif %}{{ eos_token }}") == "none"


def test_a_template_that_refuses_is_quoted():
    """raise_exception and a template's own mistakes are told in its words."""
    with pytest.raises(TokensError, match="refuses the conversation: System role not supported"):
        rendered("{{ raise_exception('System role not supported') }}")
    with pytest.raises(TokensError, match="can only concatenate str"):
        rendered("{{ 'a' + 1 }}")
    with pytest.raises(TokensError, match="line 2 of the chat template cannot be read"):
        rendered("\n{% for %}")


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ strftime_now.__self__.year }}"]
)
def test_a_template_stays_in_its_sandbox(source):
    """A template reaches no internals of Python and changes nothing that it was given."""
    with pytest.raises(TokensError, match=r"unsafe|not safe"):
        rendered(source)


def test_a_message_is_passed_with_all_its_keys():
    """Null keys are left out; reasoning goes by each of its names; name, weight and calls are there to be read."""
    message = {"role": "assistant", "content": "x", "name": None, "thinking": "hm", "weight": 0}

    assert message_dict(message) == {
        "role": "assistant", "content": "x", "weight": 0, "thinking": "hm", "reasoning_content": "hm"
    }  # fmt: skip


def test_files_win_over_the_config(tmp_path):
    """chat_template.jinja and additional_chat_templates/ come before tokenizer_config.json, as in transformers."""
    config = {"chat_template": [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "tools"}]}
    assert read_sources(tmp_path, config) == {"default": "old", "tool_use": "tools"}
    assert read_sources(tmp_path, {"chat_template": "one"}) == {"default": "one"}

    (tmp_path / "chat_template.jinja").write_text("new")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert read_sources(tmp_path, config) == {"default": "new", "rag": "rag"}


def test_conversations_with_tools_have_their_template():
    """A template that is named tool_use serves conversations with tools, the default one all others."""
    template = ChatTemplate({"default": "plain", "tool_use": "tools"}, {})

    assert template.render(USER) == "plain"
    assert template.render(USER, tools=[{"name": "f"}]) == "tools"


def test_a_template_that_nobody_asks_for_may_be_broken():
    """Only the two that render are read: some models carry others that need more than jinja2."""
    assert ChatTemplate({"default": "plain", "rag": "{% for %}"}, {}).render(USER) == "plain"


def test_a_model_without_a_template_is_refused(tmp_path):
    """A base model has no template, and one is not made up."""
    with pytest.raises(TokensError, match=f"{tmp_path}: the model has no default chat template"):
        read_sources(tmp_path, json.loads("{}"))


def test_a_message_nested_too_deep_is_refused(tokenizer_of):
    """Whoever asks an endpoint may send what only just can be decoded; it is no error of the server's."""
    arguments = json.loads('{"a": ' * 700 + "1" + "}" * 700)
    call = {"type": "function", "function": {"name": "price", "arguments": arguments}}
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}, *USER]

    with pytest.raises(TokensError, match="in a message lists or objects are nested too deep"):
        tokenizer_of("qwen2.5").prompt(messages)
