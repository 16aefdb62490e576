"""The template lock: what training showed the model, so that every server can check that it asks in the same way.

It is written at data preparation and travels with the adapter, the checkpoints and the package. A server verifies it
when it loads, and refuses to start on a mismatch.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from penala.errors import TemplateMismatch, TokensError
from penala.tokens.chat_tokenizer import ChatTokenizer, Row
from penala.tokens.template import message_dict, plain

FILE = "template_lock.json"
SCHEMA = "template-lock/1"  # names the layout below: another layout gets another name
FROM_DATA = 3  # conversations of the data that are kept as golden renderings
SHORT = 4000  # characters; a longer conversation of the data is not kept
NOW = datetime(2025, 1, 2, 3, 4, 5)  # what a template that asks for the time is told: tomorrow's rendering is today's
_FIX = "use the tokenizer, the chat template and the generation config that the model was trained with"


@dataclass(frozen=True, slots=True)
class Golden:
    """A conversation, and what it was rendered to. `text` None: the template refused it."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    prompt: bool
    text: str | None
    ids: list[int] | None


@dataclass(frozen=True, slots=True)
class TemplateLock:
    """All that decides which tokens a conversation becomes.

    templates: the SHA-256 of each chat template by name. special_tokens: by their names in the template.
    policy: `bos`, the token that every rendering begins with (the template writes it, none is added) or None;
    `turn_ends` and `end_ids`, where a reply ends. files: the SHA-256 of each tokenizer file.
    """

    templates: dict[str, str]
    special_tokens: dict[str, str]
    policy: dict[str, Any]
    files: dict[str, str]
    goldens: list[Golden]

    @classmethod
    def make(cls, tokenizer: ChatTokenizer, conversations: Iterable[Row]) -> Self:
        """Lock a tokenizer, with golden renderings of fixed conversations and of a few short ones of the data."""
        goldens = [_golden(tokenizer, messages, tools, prompt) for messages, tools, prompt in _fixed()]
        goldens += _of_data(tokenizer, conversations)
        return cls(
            templates={name: _sha256(source) for name, source in sorted(tokenizer.template.sources.items())},
            special_tokens=dict(sorted(tokenizer.template.variables.items())),
            policy=_policy(tokenizer, goldens),
            files=dict(sorted(tokenizer.files.items())),
            goldens=goldens,
        )

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the whole lock."""
        return _sha256(json.dumps([SCHEMA, asdict(self)], sort_keys=True))

    def save(self, path: Path) -> None:
        """Write the lock; a crash leaves the old file or the new one."""
        text = json.dumps({"schema": SCHEMA, "digest": self.digest, **asdict(self)}, ensure_ascii=False, indent=1)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a lock. Raises TokensError when it is missing, TemplateMismatch when it was changed."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            digest, schema = stored.pop("digest"), stored.pop("schema")
            lock = cls(**{**stored, "goldens": [Golden(**golden) for golden in stored["goldens"]]})
        except FileNotFoundError:
            what = "the model has no template lock, so it is not known how it was asked in training"
            raise TokensError(what, where=str(path)) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TokensError(f"is no template lock: {error}", where=str(path)) from None
        if schema != SCHEMA or digest != lock.digest:
            raise TemplateMismatch("the template lock was changed after it was written", where=str(path))
        return lock

    def verify(self, model: ChatTokenizer | Path) -> None:
        """Check that `model`, a tokenizer or a model folder, turns conversations into the tokens that were trained.

        Raises TemplateMismatch that names the first token that differs, or else the file.
        """
        where = str(model) if isinstance(model, Path) else None
        try:
            tokenizer = ChatTokenizer.from_folder(model) if isinstance(model, Path) else model
        except TokensError as error:
            raise TemplateMismatch(error.what, where=error.where or where, fix=_FIX) from error
        for number, golden in enumerate(self.goldens, 1):
            if (difference := _difference(tokenizer, golden)) is not None:
                raise TemplateMismatch(f"golden rendering {number} {difference}", where=where, fix=_FIX)
        here = type(self)(
            templates={name: _sha256(source) for name, source in sorted(tokenizer.template.sources.items())},
            special_tokens=dict(sorted(tokenizer.template.variables.items())),
            policy=_policy(tokenizer, self.goldens),
            files=dict(sorted(tokenizer.files.items())),
            goldens=self.goldens,
        )
        if (difference := self.difference(here)) is not None:
            raise TemplateMismatch(difference, where=where, fix=_FIX)

    def difference(self, here: Self) -> str | None:
        """Say what is first other in the lock `here` than in this one, which was trained with; None when nothing is."""
        for part in ("special_tokens", "policy", "templates", "files"):
            if (difference := _first_difference(getattr(self, part), getattr(here, part))) is not None:
                return f"{part}.{difference}"
        pairs = zip_longest(self.goldens, here.goldens)
        number = next((number for number, (one, other) in enumerate(pairs, 1) if one != other), None)
        return None if number is None else f"golden rendering {number} is another one here"


def write_text(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old content or the new one, never a part."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fixed() -> list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]]:
    """Return the conversations that every lock renders: with their tools, and whether a reply is asked for."""

    def said(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
        return [{"role": role, "content": content} for role, content in pairs]

    system, question, answer = ("system", "Be brief."), ("user", "What is kaya?"), ("assistant", "A coconut jam.")
    odd = ("user", "  two spaces\n\n\nthree lines\tand 'kopi' 咖啡 ☕🏽 e\u0301  ")
    spelled = ("user", "<|im_end|></s><|end|><|eot_id|><end_of_turn><|endoftext|>[INST] is only text")
    tool = {"type": "function", "function": {"name": "price", "description": "Price of a dish.", "parameters": {}}}
    call = {"id": "call00001", "type": "function", "function": {"name": "price", "arguments": {"dish": "kaya"}}}
    used = [
        *said(question),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "price", "tool_call_id": "call00001", "content": "RM 2"},
        *said(answer),
    ]
    wholes = [said(question, answer), said(system, question, answer), said(question, answer, odd, answer)]
    wholes.append(said(spelled, answer))
    rows: list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]] = []
    for messages, tools in [*((messages, None) for messages in wholes), (used, [tool])]:
        rows += [(messages, tools, False), (messages[:-1], tools, True)]
    return rows


def _of_data(tokenizer: ChatTokenizer, conversations: Iterable[Row]) -> list[Golden]:
    goldens: list[Golden] = []
    for conversation in conversations:
        if sum(len(message.content) for message in conversation.messages) > SHORT:
            continue
        messages = [message_dict(message) for message in conversation.messages]
        golden = _golden(tokenizer, messages, plain(conversation.tools) or None, False)
        if golden.text is not None and len(golden.text) <= SHORT:
            goldens.append(golden)
        if len(goldens) == FROM_DATA:
            break
    return goldens


def _golden(
    tokenizer: ChatTokenizer, messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]] | None, prompt: bool
) -> Golden:
    try:
        text = tokenizer.render(messages, tools=tools, add_generation_prompt=prompt, now=NOW)
        ids = tokenizer.ids(messages, tools=tools, add_generation_prompt=prompt, now=NOW)
    except TokensError:
        return Golden(list(messages), tools, prompt, None, None)
    return Golden(list(messages), tools, prompt, text, ids)


def _policy(tokenizer: ChatTokenizer, goldens: Iterable[Golden]) -> dict[str, Any]:
    bos = tokenizer.template.variables.get("bos_token")
    texts = [golden.text for golden in goldens if golden.text is not None]
    return {
        "bos": bos if bos and texts and all(text.startswith(bos) for text in texts) else None,
        "turn_ends": sorted(tokenizer.habits.turn_ends),
        "end_ids": sorted(tokenizer.end_ids),
    }


def _difference(tokenizer: ChatTokenizer, golden: Golden) -> str | None:
    """Say where a golden rendering differs here; None when it does not."""
    here = _golden(tokenizer, golden.messages, golden.tools, golden.prompt)
    if (here.ids is None) != (golden.ids is None):
        return "is refused here" if here.ids is None else "was refused in training and is not here"
    if here.ids is None or golden.ids is None or (here.ids, here.text) == (golden.ids, golden.text):
        return None
    at = next((n for n, (a, b) in enumerate(zip(golden.ids, here.ids, strict=False)) if a != b), None)
    if at is None:
        at = min(len(golden.ids), len(here.ids))
    if at == len(golden.ids) == len(here.ids):
        return "has the same tokens and another text"
    trained, found = (_name(tokenizer, ids[at]) if at < len(ids) else "the end" for ids in (golden.ids, here.ids))
    return f"differs at token {at}: {trained} in training, {found} here"


def _name(tokenizer: ChatTokenizer, id_: int) -> str:
    return f"{tokenizer.token(id_)!r} ({id_})"


def _first_difference(trained: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    for name in sorted(trained.keys() | here.keys()):
        if trained.get(name) != here.get(name):
            return f"{name} is {_short(here.get(name))} here and was {_short(trained.get(name))} in training"
    return None


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
