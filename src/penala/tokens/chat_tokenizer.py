"""Messages to tokens and back, for training and for the endpoint alike: what one shows the model, the other asks with.

Which tokens are trained is not read off the template but proved for each row (marks.py, turns.py).
"""

import hashlib
import json
import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, Self

from penala.conversations.conversation import Conversation, Message
from penala.errors import TokensError
from penala.tokens import marks
from penala.tokens.encoding import ApartEncoder, Encoded, Encoder, pattern
from penala.tokens.frames import Frames
from penala.tokens.labels import ALL_TURNS, Supervision, TrainingTokens, label, wanted
from penala.tokens.probe import PROBES, probe
from penala.tokens.template import FILE, MORE_FILES, ChatTemplate, plain, read_sources
from penala.tokens.turns import Rendering, Turn, find_turn

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can spell one; UTF-8 and tokenizers cannot
NO_FILES: Mapping[str, str] = {}
_START = attrgetter("start")
UNSET_LENGTH = 1_000_000  # a model_max_length from here on says that nobody has set one


class Row(Protocol):
    """What is asked of a conversation here; penala.conversations.conversation.Conversation is one."""

    @property
    def messages(self) -> Sequence[Any]: ...
    @property
    def tools(self) -> Sequence[Any] | None: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...


_Rendered = tuple[Rendering, Encoded | None] | TokensError


class ChatTokenizer:
    """Chat template and tokenizer of one model; `from_folder` builds it.

    habits: what the template writes around the assistant's text.
    end_ids: the tokens that end a reply: what the template ends a turn with, and what the model's files declare.
    max_length: the tokens that fit the model, the least of what tokenizer and config say (sys.maxsize: neither does).
    files: the SHA-256 of each file that template and tokenizer were read from, by name.
    """

    def __init__(
        self,
        encoder: Encoder,
        template: ChatTemplate,
        declared_end_ids: Iterable[int],
        max_length: int = sys.maxsize,
        files: Mapping[str, str] = NO_FILES,
    ) -> None:
        self.template = template
        self.max_length = max_length
        self.files = dict(files)
        self._encoder = encoder
        declared = {id_: encoder.tokenizer.id_to_token(id_) for id_ in declared_end_ids}
        self._declared_ends = frozenset(token for token in declared.values() if token is not None)
        self.habits = probe(template, encoder, self._declared_ends)
        self._refuse_unread_ends()
        self.end_ids = frozenset(declared) | {encoder.added[token] for token in self.habits.turn_ends}
        self._controls = pattern(self.habits.controls)
        self._frames = Frames(self.habits.controls)
        self._added_ids = frozenset(encoder.added.values())
        self._ids_of_prompt_end = lru_cache(maxsize=1024)(lambda text: encoder.encode(text).ids)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read a model folder's tokenizer.json, tokenizer_config.json, chat template, config and generation config.

        Raises TokensError for files that are missing or cannot be used.
        """
        config, generation = _read_json(folder / "config.json"), _read_json(folder / "generation_config.json")
        tokenizer_config = _read_json(folder / "tokenizer_config.json")
        variables = _special_tokens(tokenizer_config, _read_json(folder / "special_tokens_map.json"))
        encoder = Encoder(folder / "tokenizer.json")
        template = ChatTemplate(read_sources(folder, tokenizer_config), variables)
        text_config = config.get("text_config") or config
        ends = [source.get("eos_token_id") for source in (generation, config, text_config)]
        if "eos_token" in variables:
            ends.append(encoder.tokenizer.token_to_id(variables["eos_token"]))
        end_ids = [id_ for end in ends for id_ in (end if isinstance(end, list) else [end]) if id_ is not None]
        limits = (tokenizer_config.get("model_max_length"), text_config.get("max_position_embeddings"))
        known = [int(limit) for limit in limits if limit is not None and 0 < limit < UNSET_LENGTH]
        files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in tokenizer_files(folder)}
        return cls(encoder, template, end_ids, min(known, default=sys.maxsize), files)

    def render(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
    ) -> str:
        """Return the conversation as text. Raises TokensError when the template refuses it."""
        return self.template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt, now=now)

    def prompt(
        self, messages: Sequence[Any], *, tools: Sequence[Any] | None = None, now: datetime | None = None
    ) -> list[int]:
        """Return the ids of the conversation up to where the assistant writes.

        What the conversation with its reply is trained on begins with them.
        """
        return self.ids(messages, tools=tools, add_generation_prompt=True, now=now)

    def ids(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
    ) -> list[int]:
        """Return the ids of a rendering. Raises TokensError when the template refuses the conversation."""
        rendering = self._rendering(messages, tools, add_generation_prompt, now)
        turns = [turn for turn in _turns(rendering).values() if isinstance(turn, Turn)]
        return self._encode(rendering, self._encoder.encode(rendering.text), turns).ids

    def training_tokens(
        self, conversation: Row, supervision: Supervision = ALL_TURNS, *, now: datetime | None = None
    ) -> TrainingTokens:
        """Return the ids of a whole conversation and their labels.

        Supervised are the assistant's texts through their end-of-turn tokens. Raises TokensError, which names the row,
        when the template refuses the conversation and when nothing proves which tokens the assistant wrote.
        """
        (result,) = self.training_tokens_of([conversation], supervision, now=now)
        if isinstance(result, TokensError):
            raise result
        return result

    def training_tokens_of(
        self, conversations: Sequence[Row], supervision: Supervision = ALL_TURNS, *, now: datetime | None = None
    ) -> list[TrainingTokens | TokensError]:
        """Do what `training_tokens` does for many conversations, on all cores; an error stands in its row's place."""
        rendered = [self._rendered(conversation, now) for conversation in conversations]
        texts = [one[0].text for one in rendered if not isinstance(one, TokensError) and one[1] is None]
        left = iter(self._encoder.encode_batch(texts))
        results: list[TrainingTokens | TokensError] = []
        for conversation, one in zip(conversations, rendered, strict=True):
            where = f"{conversation.file}:{conversation.line}"
            try:
                if isinstance(one, TokensError):
                    raise one
                rendering, encoded = one
                if encoded is None:  # what is not known word by word
                    encoded = self._encoder.encoded(next(left), rendering.text)
                results.append(self._label(rendering, encoded, supervision, where))
            except TokensError as error:
                results.append(TokensError(error.what, where=where, fix=error.fix))
        return results

    def _rendered(self, conversation: Row, now: datetime | None) -> _Rendered:
        try:
            rendering = self._rendering(conversation.messages, conversation.tools, False, now)
        except TokensError as error:
            return error
        return rendering, self._encoder.encoded_by_words(rendering.text)

    def parse_reply(self, ids: Sequence[int]) -> Message:
        """Return the message that the model wrote: `ids` up to the first that ends a reply, without what templates add.

        Reasoning in <think> tags, where the template knows them, goes to extra["reasoning_content"].
        """
        end = next((n for n, id_ in enumerate(ids) if id_ in self.end_ids), len(ids))
        text = self._decode_behind(ids[:end])
        leads, tails = self._added_texts
        text = text.removeprefix(next((lead for lead in leads if text.startswith(lead)), ""))
        text = text.removesuffix(next((tail for tail in tails if text.endswith(tail)), ""))
        extra: dict[str, Any] = {}
        thought, close, answer = text.partition("</think>")
        if close and any("</think>" in source for source in self.template.sources.values()):
            text = answer.lstrip("\n")
            if reasoning := thought.rpartition("<think>")[2].strip("\n"):
                extra["reasoning_content"] = reasoning
        return Message(role="assistant", content=text, extra=extra)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens included."""
        return str(self._encoder.tokenizer.decode(list(ids), skip_special_tokens=False))

    def token(self, id_: int) -> str:
        """Return how the tokenizer writes one token."""
        return self._encoder.tokenizer.id_to_token(id_) or f"<{id_}>"

    def _refuse_unread_ends(self) -> None:
        """Refuse a tokenizer that takes an end of turn behind a word for text, as "normalized" tokens can be taken."""
        for token in sorted(self.habits.turn_ends):
            if self._encoder.added[token] not in self._encoder.encode(f"a{token}").ids:
                what = f"the tokenizer reads {token}, with which the chat template ends a turn, as text behind a word"
                fix = f'set "normalized": false for {token} among the added_tokens of tokenizer.json'
                raise TokensError(what, where=str(self._encoder.path), fix=fix)

    def _rendering(self, messages: Sequence[Any], tools: Any, prompt: bool, now: datetime | None) -> Rendering:
        if not messages:
            raise TokensError("the conversation has no message")
        rows = [self.template.message(message) for message in messages]
        tools = plain(tools)
        moment = now or datetime.now()  # one for all renderings of this conversation

        def render(rows: marks.Messages, tools: Any, prompt: bool = prompt) -> str:
            return self.template.render_plain(rows, tools, prompt, moment)

        text = render(rows, tools)
        known = self._frames.find(rows, prompt, text) if not tools else None
        if known is not None:
            found, controls = known
        else:
            if (half := _HALF_CHARACTER.search(text)) is not None:
                raise TokensError(f"the text holds half a character, \\u{ord(half[0]):x}", fix="write it as UTF-8")
            found = marks.find(render, rows, tools, text, self._controls)
            matches = (match for match in self._controls.finditer(text) if match.start() not in found.spelled)
            controls = [marks.Control(match.start(), match.end(), match[0]) for match in matches]
            if not tools:
                self._frames.learn(rows, prompt, text, found, controls)
        return Rendering(
            messages=rows,
            text=text,
            found=found,
            habits=self.habits,
            controls=controls,
            declared_ends=self._declared_ends,
            prompt=lambda message: render(rows[:message], tools, True),
        )

    def _label(self, rendering: Rendering, encoded: Encoded, supervision: Supervision, where: str) -> TrainingTokens:
        turns = _turns(rendering)
        supervised = []
        for number in wanted(rendering.messages, supervision):
            turn = turns[number]
            if isinstance(turn, TokensError):
                raise turn
            supervised.append(turn)
        found = [turn for turn in turns.values() if isinstance(turn, Turn)]
        return label(rendering, self._encode(rendering, encoded, found), supervised, where)

    def _encode(self, rendering: Rendering, encoded: Encoded, turns: Collection[Turn]) -> Encoded:
        """Correct the plain encoding of a rendering: where a text spells a special token, and where turns begin."""
        text, spelled = rendering.text, rendering.found.spelled
        if spelled:
            encoded = self._apart.encode(text, spelled)
        borders: set[int] = set()
        while missing := self._missing_borders(rendering, encoded, turns) - borders:
            borders |= missing
            encoded = self._apart.encode(text, spelled, borders)
        return encoded

    def _missing_borders(self, rendering: Rendering, encoded: Encoded, turns: Collection[Turn]) -> set[int]:
        """Return the places where no token may cross, and one does.

        Tokenizers join characters across the end of a prompt (two newlines are often one token); who asks with that
        prompt, and then reads token after token, never sees them joined. Nor may a word of the template be in one
        token with the reply; its white space may.
        """
        ends = (turn.prompt_end for turn in turns if turn.prompt_end is not None)
        borders = {end for end in ends if not self._begins_with_prompt(rendering, encoded, end)}
        for turn in turns:
            n = bisect_left(encoded.starts, turn.start) - 1
            if n >= 0 and encoded.ends[n] > turn.start and encoded.ids[n] not in self._added_ids:
                joined = rendering.text[encoded.starts[n] : turn.start]
                borders |= set() if joined.isspace() else {turn.start}
        return borders

    def _begins_with_prompt(self, rendering: Rendering, encoded: Encoded, end: int) -> bool:
        """Tell whether the ids begin with those of text[:end]; to look behind its last special token is enough."""
        last = bisect_left(rendering.controls, end, key=_START) - 1
        start = rendering.controls[last].start if last >= 0 else 0
        spelled = [at - start for at in rendering.found.spelled if start <= at < end]
        prompt_end = rendering.text[start:end]
        ids = self._apart.encode(prompt_end, spelled).ids if spelled else self._ids_of_prompt_end(prompt_end)
        first = bisect_right(encoded.ends, start) if start else 0
        return encoded.ids[first : first + len(ids)] == ids

    @cached_property
    def _apart(self) -> ApartEncoder:
        return ApartEncoder(self._encoder, self.habits.controls)

    @cached_property
    def _added_texts(self) -> tuple[list[str], list[str]]:
        """What is decoded before and behind the text of a reply, the longest first: learned from known replies.

        Templates write there (a space, an empty <think> block), and some tokenizers put a space before a text.
        """
        leads, tails = {""}, {""}
        for messages in PROBES:
            rows = tuple(Message(message["role"], message["content"]) for message in messages)
            try:
                tokens = self.training_tokens(Conversation(rows))
            except TokensError:
                continue
            for turn in tokens.turns:
                begin = turn.start if turn.prompt_end is None else turn.prompt_end
                first, end = (bisect_left(tokens.encoded.starts, at) for at in (begin, turn.end_token))
                reply = self._decode_behind(tokens.ids[first:end])
                lead, said, tail = reply.partition(rows[turn.message].content)
                if said:
                    leads.add(lead)
                    tails.add(tail)
        return sorted(leads, key=len, reverse=True), sorted(tails, key=len, reverse=True)

    def _decode_behind(self, ids: Sequence[int]) -> str:
        """Decode tokens that others precede: some decoders take a space away where a text begins."""
        before, length = self._text_before
        return str(self._encoder.tokenizer.decode([*before, *ids], skip_special_tokens=True))[length:]

    @cached_property
    def _text_before(self) -> tuple[list[int], int]:
        ids = self._encoder.encode("a").ids
        return ids, len(self._encoder.tokenizer.decode(ids, skip_special_tokens=True))


def tokenizer_files(folder: Path) -> list[str]:
    """Return the names, below `folder`, of the files that hold a tokenizer and its chat templates."""
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", FILE]
    more = sorted((folder / MORE_FILES).glob("*.jinja"))
    return [name for name in names if (folder / name).is_file()] + [str(path.relative_to(folder)) for path in more]


def _turns(rendering: Rendering) -> dict[int, Turn | TokensError]:
    """Locate each assistant turn, by message; where that fails, the reason stands in its place."""
    turns: dict[int, Turn | TokensError] = {}
    for number, message in enumerate(rendering.messages):
        if message.get("role") == "assistant":
            try:
                turns[number] = find_turn(rendering, number)
            except TokensError as error:
                turns[number] = error
    return turns


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise TokensError(f"cannot be read as JSON: {error}", where=str(path)) from None
    if not isinstance(loaded, dict):
        raise TokensError("holds no JSON object", where=str(path))
    return loaded


def _special_tokens(config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by name, as transformers hands them to a template.

    Newer configs hold them all; beside an older one (no added_tokens_decoder) special_tokens_map.json wins.
    """
    declared = dict(config) if "added_tokens_decoder" in config else {**config, **special_tokens_map}
    tokens = {}
    for name, token in declared.items():
        content = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens
