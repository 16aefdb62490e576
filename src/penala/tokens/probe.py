"""Learn from a few made-up conversations what a chat template writes around the assistant's text."""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from penala.errors import TokensError
from penala.tokens import marks
from penala.tokens.encoding import Encoder, pattern
from penala.tokens.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template writes around the assistant's text.

    turn_ends: the tokens that end a turn; none when the template does not end every turn with a token.
    controls: the tokens that only the template may write; where a message spells one it is text.
    heads: the texts between the last control token before a reply and the reply.
    tails: the texts between a reply and its end-of-turn token.
    prompt_end: how a prompt ends, from its last token on. A rendering that shows it goes on with a reply.
    """

    turn_ends: frozenset[str] = frozenset()
    controls: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()
    tails: frozenset[str] = frozenset()
    prompt_end: str = ""


def _conversation(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": f"{role} {'abcde'[n]}"} for n, role in enumerate(roles)]


# two turns say more than one: what stands behind the last turn only does not end a turn (Phi-3's end-of-document token)
PROBES = (
    _conversation("user", "assistant", "user", "assistant"),
    _conversation("system", "user", "assistant", "user", "assistant"),
    _conversation("user", "assistant"),
)


def probe(template: ChatTemplate, encoder: Encoder, declared_ends: Collection[str]) -> Habits:
    """Return the habits of `template`. `declared_ends` are the tokens that the model's files say end a reply.

    Of a template that refuses the probes or rewrites them nothing is known but the special tokens.
    """
    for messages in PROBES:
        try:
            text = template.render(messages)
            found = marks.find(lambda rows, _: template.render(rows), messages, None, text, pattern(()))
            if len(found.starts) == len(found.ends) == len(messages):
                return _habits(template, encoder, declared_ends, messages, text, found)
        except TokensError:
            continue
    return Habits(controls=_special(template, encoder) | frozenset(declared_ends).intersection(encoder.added))


def _special(template: ChatTemplate, encoder: Encoder) -> frozenset[str]:
    """Return the special tokens: by the tokenizer's own word, or by a name in its config, such as bos_token."""
    return encoder.special | frozenset(template.variables.values()).intersection(encoder.added)


def _habits(
    template: ChatTemplate,
    encoder: Encoder,
    declared_ends: Collection[str],
    messages: Sequence[dict[str, Any]],
    text: str,
    found: marks.Found,
) -> Habits:
    added = pattern(encoder.added)
    turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    prompts = [template.render(messages[:n], add_generation_prompt=True) for n in turns]
    behind = [text[found.ends[n] : found.starts.get(n + 1)] for n in turns]
    questions = template.render(messages[: turns[0]])
    header = frozenset(added.findall(prompts[0][len(_shared([prompts[0], questions])) :]))
    turn_ends = _turn_ends(behind, added, header, declared_ends)
    between_turns = {token for glue in behind[:-1] for token in added.findall(glue)}
    before = [added.findall(text[found.ends[n - 1] : found.starts[n]]) for n in turns]
    begins_turn = {next((token for token in tokens if token not in turn_ends), "") for tokens in before} - {""}
    last_question = messages[turns[0] - 1]["content"]
    prompt_end = prompts[0][prompts[0].rfind(last_question) + len(last_question) :]
    last_token = max((match.start() for match in added.finditer(prompt_end)), default=0)
    ends = turn_ends.union(declared_ends).intersection(encoder.added)
    controls = _special(template, encoder) | ends | between_turns | begins_turn
    return Habits(
        turn_ends=turn_ends,
        controls=controls,
        heads=frozenset(pattern(controls).split(text[: found.starts[n]])[-1] for n in turns),
        tails=frozenset(glue[: match.start()] for glue in behind if (match := pattern(turn_ends).search(glue))),
        prompt_end=prompt_end[last_token:],
    )


def _turn_ends(
    behind: Sequence[str], added: re.Pattern[str], header: frozenset[str], declared: Collection[str]
) -> frozenset[str]:
    """Return the tokens that end a turn. `behind` is what stands behind each assistant text, up to the next text."""
    shared = added.findall(_shared(behind))
    if shared:
        return frozenset([next((token for token in shared if token in declared), shared[0])])
    # the last turn may end in a token of its own; a token that begins a message does not end the one before
    firsts = [match[0] if (match := added.search(glue)) else None for glue in behind]
    if not header or not header.isdisjoint(firsts):
        return frozenset()
    return frozenset(token for token in firsts if token is not None) if None not in firsts else frozenset()


def _shared(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    columns = zip(*texts, strict=False)
    return "".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
