"""A model's own chat template: where it is kept, and how it is rendered.

Rendered as transformers does (`apply_chat_template`): a sandboxed jinja2 with trim_blocks and lstrip_blocks, loop
controls, a `tojson` that keeps non-ASCII text, `raise_exception` and `strftime_now`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from penala.conversations.decode import TOO_DEEP, decode_text, is_too_deep
from penala.errors import TokensError

FILE = "chat_template.jinja"
MORE_FILES = "additional_chat_templates"  # NAME.jinja, one a named template
_REASONING = ("reasoning_content", "thinking", "reasoning")  # the names it goes by, the usual one first


class _GenerationTag(jinja2.ext.Extension):
    """Tolerate `{% generation %}` ... `{% endgeneration %}`: what they hold is rendered as if they were not there."""

    tags = {"generation"}  # noqa: RUF012 - the attribute that jinja2 reads

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class ChatTemplate:
    """The chat template of one model, compiled.

    `sources` holds the templates by name; "tool_use" serves conversations with tools, "default" the others. `variables`
    are the special tokens by their names in the template, such as `bos_token`.
    Raises TokensError for a template that jinja2 cannot read.
    """

    def __init__(self, sources: Mapping[str, str], variables: Mapping[str, str]) -> None:
        self.sources = dict(sources)
        self.variables = dict(variables)
        self._compiled = {name: _compile(source) for name, source in sources.items() if name in ("default", "tool_use")}

    def render(
        self,
        messages: Iterable[Any],
        *,
        tools: Iterable[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
    ) -> str:
        """Return the conversation as the one text that the model reads.

        `messages` are mappings or have `.role`, `.content` and `.extra`; `now` is the time that `strftime_now` tells.
        Raises TokensError with the template's own words when it refuses the conversation.
        """
        rows = [self.message(message) for message in messages]
        return self.render_plain(rows, plain(tools), add_generation_prompt, now or datetime.now())

    def message(self, message: Any) -> dict[str, Any]:
        """Return a message as this template sees it: made by `message_dict`, the arguments of calls read.

        OpenAI's format holds them as JSON in a text, which many templates would write as JSON once more.
        """
        fields = message_dict(message)
        if isinstance(calls := fields.get("tool_calls"), list) and not self._takes_arguments_as_text:
            fields["tool_calls"] = [_with_arguments_read(call) for call in calls]
        return fields

    @cached_property
    def _takes_arguments_as_text(self) -> bool:
        """Whether the template writes the arguments of a call as they are when they are text."""
        function = {"name": "price", "arguments": '{"dish":"kaya"}'}
        call = {"id": "call00001", "type": "function", "function": function}  # Mistral's templates want nine letters
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        tool = {"type": "function", "function": {"name": "price", "description": "b", "parameters": {}}}
        for tools in ([tool], None):  # "tool_use" may write calls, and "default" none
            try:
                if function["arguments"] in self.render_plain(messages, tools, False, datetime.now()):
                    return True
            except TokensError:
                continue
        return False

    def render_plain(self, messages: Sequence[dict[str, Any]], tools: Any, prompt: bool, now: datetime) -> str:
        """Do what `render` does with messages made by `message`, and tools made by `plain`."""
        name = "tool_use" if tools and "tool_use" in self._compiled else "default"
        try:
            return self._compiled[name].render(
                messages=messages,
                tools=tools or None,
                documents=None,
                add_generation_prompt=prompt,
                strftime_now=now.strftime,
                **self.variables,
            )
        except (
            Exception
        ) as error:  # a template is foreign code: it raises TypeError, KeyError, ... as well as jinja2's own
            raise TokensError(f"the chat template refuses the conversation: {error}") from error


def _compile(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokensError(f"line {error.lineno} of the chat template cannot be read: {error}") from error
    template.globals = dict(template.globals)  # a chain of two, which each rendering would copy slowly
    return template


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Replace jinja2's filter, which escapes HTML and every character that is not ASCII."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _with_arguments_read(call: Any) -> Any:
    """Replace the arguments of a call, where they are an object in JSON, by that object."""
    function = call.get("function") if isinstance(call, dict) else None
    text = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(text, str):
        return call
    arguments, faults = decode_text(text)  # which is no object where the check of the data would warn of it
    if faults or not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def message_dict(message: Any) -> dict[str, Any]:
    """Return a message as a template sees it: role, content and all other keys that are not null.

    Reasoning is passed under each of the names that templates read, as transformers does. Raises TokensError for lists
    and objects within each other deeper than a row of data may have them.
    """
    if isinstance(message, Mapping):
        fields = dict(message)
    elif not message.extra and isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    else:
        fields = {"role": message.role, "content": message.content, **message.extra}
    if is_too_deep(fields):
        raise TokensError(f"in a message {TOO_DEEP}", fix="flatten what stands beside its content")
    seen = {key: plain(value) for key, value in fields.items() if value is not None}
    reasoning = next((seen[name] for name in _REASONING if name in seen), None)
    if reasoning is not None:
        seen = {"thinking": reasoning, **seen, "reasoning_content": reasoning}
    return seen


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the reasoning beside the content of a message made by `message_dict`; empty when it has none."""
    reasoning = message.get("reasoning_content")
    return reasoning if isinstance(reasoning, str) else ""


def plain(value: Any) -> Any:
    """Rebuild a value from dict and list, which are all that `tojson` takes and all that a template needs."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def read_sources(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Find the chat templates of a model folder by name.

    Files win over `tokenizer_config.json`, as in transformers. Raises TokensError when there is none, or no default.
    """
    sources: dict[str, str] = {}
    if (folder / FILE).is_file():
        sources["default"] = (folder / FILE).read_text(encoding="utf-8")
    for path in sorted((folder / MORE_FILES).glob("*.jinja")):
        sources[path.stem] = path.read_text(encoding="utf-8")
    if not sources:
        declared = tokenizer_config.get("chat_template")
        if isinstance(declared, str):
            sources["default"] = declared
        elif isinstance(declared, list):
            sources.update({entry["name"]: entry["template"] for entry in declared})
    if "default" not in sources:
        only = f" but {', '.join(sorted(sources))}" if sources else ""
        what = f"the model has no default chat template{only}, so it is not known how it is asked"
        raise TokensError(what, where=str(folder), fix=f"use a chat model, or add its template as {FILE}")
    return sources
