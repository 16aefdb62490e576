"""What a readable row may be blamed for: one rule, one function, named like its code in faults.py.

A rule yields (path in the row, message) for each thing that it sees. ORDER_RULES look at roles only, TEXT_RULES at
texts, COLUMN_RULES at the columns beside the messages.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

from penala.conversations.decode import lone_surrogates
from penala.conversations.faults import CODES, Fault
from penala.conversations.messages import Turn
from penala.conversations.schemas import Row

Objections = Iterator[tuple[str, str]]
Rule = Callable[[Row], Objections]

LONG_CHARACTERS = 100_000  # about 25,000 tokens of English
LONG_MESSAGES = 100
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")  # C0 but white space, and DEL
# what spells a turn, a border or an instruction in the templates of the usual model families;
# two patterns, as re looks for a pattern's first character faster than for one of two
ANGLE_MARKERS = re.compile(
    r"<(?:\|\w+\||/?s|bos|eos|pad|unk|(?:start|end)_of_turn|</?SYS>|\uff5c[^<>]{1,40}\uff5c|/?tool_(?:call|response))>"
)
SQUARE_MARKERS = re.compile(r"\[/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT)\]")
# they take no room on a screen: format characters and the blanks that strip() does not know
INVISIBLE = re.compile(
    "[\\s\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]*"
)

ORDER_RULES: list[Rule] = []
TEXT_RULES: list[Rule] = []
COLUMN_RULES: list[Rule] = []


def _in(table: list[Rule]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        assert rule.__name__ in CODES
        table.append(rule)
        return rule

    return register


def faults_of(row: Row) -> Iterator[Fault]:
    """Yield everything that the rules see in a row. The order of turns is judged only where every role is known."""
    tables = (ORDER_RULES if row.whole else [], TEXT_RULES, COLUMN_RULES)
    for table in tables:
        for rule in table:
            for path, message in rule(row):
                yield Fault(rule.__name__, path, message)


def has_marker(text: str) -> bool:
    """Tell whether a text spells a marker of some chat template."""
    return ("<" in text and ANGLE_MARKERS.search(text) is not None) or (
        "[" in text and SQUARE_MARKERS.search(text) is not None
    )


@lru_cache(maxsize=4096)
def is_orderly(roles: tuple[str, ...]) -> bool:
    """Tell whether no rule objects to this order of roles."""
    row = Row([Turn(role, "", "", "", "") for role in roles])
    return not any(True for rule in ORDER_RULES for _ in rule(row))


def _speakers(row: Row) -> list[Turn]:
    return [turn for turn in row.turns if turn.role != "system"]


def _is_dialogue(row: Row) -> bool:
    roles = {turn.role for turn in row.turns}
    return "user" in roles and "assistant" in roles


# --- who speaks when


@_in(ORDER_RULES)
def no_user(row: Row) -> Objections:
    if not any(turn.role == "user" for turn in row.turns):
        yield "", "nobody asks: there is no user message"


@_in(ORDER_RULES)
def no_assistant(row: Row) -> Objections:
    if not any(turn.role == "assistant" for turn in row.turns):
        yield "", "nobody answers: there is no assistant message"


@_in(ORDER_RULES)
def user_user(row: Row) -> Objections:
    yield from _repeated(row, "user")


@_in(ORDER_RULES)
def assistant_assistant(row: Row) -> Objections:
    yield from _repeated(row, "assistant")


def _repeated(row: Row, role: str) -> Objections:
    speakers = _speakers(row)
    for before, turn in pairwise(speakers):
        if before.role == turn.role == role:
            yield turn.path, f"the {role} speaks twice in a row"


@_in(ORDER_RULES)
def assistant_first(row: Row) -> Objections:
    if _is_dialogue(row) and (first := _speakers(row)[0]).role == "assistant":
        yield first.path, "the assistant speaks before any user"


@_in(ORDER_RULES)
def ends_with_user(row: Row) -> Objections:
    if _is_dialogue(row) and (last := _speakers(row)[-1]).role == "user":
        yield last.path, "nobody answers the last user message"


@_in(ORDER_RULES)
def ends_with_tool(row: Row) -> Objections:
    if _is_dialogue(row) and (last := _speakers(row)[-1]).role == "tool":
        yield last.path, "nobody answers after the last tool message"


@_in(ORDER_RULES)
def system_in_middle(row: Row) -> Objections:
    for i, turn in enumerate(row.turns):
        if turn.role == "system" and _follows_speaker(row, i) and i < len(row.turns) - 1:
            yield turn.path, "a system message stands in the middle"


@_in(ORDER_RULES)
def system_last(row: Row) -> Objections:
    last = len(row.turns) - 1
    if row.turns and row.turns[last].role == "system" and _follows_speaker(row, last):
        yield row.turns[last].path, "a system message stands at the end"


def _follows_speaker(row: Row, index: int) -> bool:
    return any(turn.role != "system" for turn in row.turns[:index])


@_in(ORDER_RULES)
def two_systems(row: Row) -> Objections:
    systems = [turn for turn in row.turns if turn.role == "system"]
    for turn in systems[1:]:
        yield turn.path, f"is one of {len(systems)} system messages"


# --- what they say


@_in(TEXT_RULES)
def tool_without_call(row: Row) -> Objections:
    asked = False
    for turn in row.turns:
        if turn.role == "tool" and not asked:
            yield turn.path, "a tool answers that nobody called"
        asked = "tool_calls" in turn.extra or (asked and turn.role == "tool")


def _is_blank(text: str) -> bool:
    return INVISIBLE.fullmatch(text) is not None


def _silent(row: Row, role: str) -> Iterator[Turn]:
    for turn in row.turns:
        speaks = turn.role == role and "tool_calls" not in turn.extra
        if speaks and turn.content is not None and _is_blank(turn.content):
            yield turn


@_in(TEXT_RULES)
def empty_assistant(row: Row) -> Objections:
    for turn in _silent(row, "assistant"):
        if turn.content == "":
            yield turn.content_path, "the assistant's text is empty"


@_in(TEXT_RULES)
def blank_assistant(row: Row) -> Objections:
    for turn in _silent(row, "assistant"):
        if turn.content and turn.content.isspace():
            yield turn.content_path, "the assistant's text is only white space"


@_in(TEXT_RULES)
def invisible_content(row: Row) -> Objections:
    for turn in _silent(row, "assistant"):
        if turn.content and not turn.content.isspace():
            yield turn.content_path, f"the assistant's text is only invisible characters: {turn.content[:8]!a}"


@_in(TEXT_RULES)
def empty_user(row: Row) -> Objections:
    for turn in _silent(row, "user"):
        yield turn.content_path, "the user's text is empty"


@_in(TEXT_RULES)
def empty_system(row: Row) -> Objections:
    for turn in _silent(row, "system"):
        yield turn.content_path, "the system's text is empty"


@_in(TEXT_RULES)
def control_characters(row: Row) -> Objections:
    for turn in row.turns:
        if turn.content and (found := CONTROL.search(turn.content)):
            character = f"U+{ord(found[0]):04X} at character {found.start() + 1}"
            yield turn.content_path, f"holds the control character {character}"


@_in(TEXT_RULES)
def lone_surrogate(row: Row) -> Objections:
    values: list[tuple[Any, str]] = [(turn.content, turn.content_path) for turn in row.turns]
    values += [(turn.extra, turn.path) for turn in row.turns]
    for value, where in [*values, (row.tools, "tools"), (row.columns, "")]:
        for path in lone_surrogates(value, where):
            yield path, "holds half of a surrogate pair, which no UTF-8 file can hold"


@_in(TEXT_RULES)
def very_long(row: Row) -> Objections:
    characters = sum(len(turn.content or "") for turn in row.turns)
    if characters > LONG_CHARACTERS or len(row.turns) > LONG_MESSAGES:
        yield "", f"is very long: {len(row.turns)} messages, {characters:,} characters"


@_in(TEXT_RULES)
def bad_weight(row: Row) -> Objections:
    for turn in row.turns:
        if turn.role == "assistant" and (weight := turn.extra.get("weight", 1)) not in (0, 1):
            yield f"{turn.path}.weight", f"is {weight!r}, neither 0 nor 1"


# --- the columns beside them


@_in(COLUMN_RULES)
def prompt_null(row: Row) -> Objections:
    for column in ("prompt", "prompt_id"):
        if column in row.columns and row.columns[column] is None:
            yield column, "is null"
            return  # both come from one accident


@_in(COLUMN_RULES)
def prompt_mismatch(row: Row) -> Objections:
    prompt = row.columns.get("prompt")
    if isinstance(prompt, str) and (first := _first_question(row)) is not None and prompt.strip() != first.strip():
        yield "prompt", "is not the first user message"


def _first_question(row: Row) -> str | None:
    return next((turn.content for turn in row.turns if turn.role == "user"), None)


@_in(COLUMN_RULES)
def prompt_id_mismatch(row: Row) -> Objections:
    prompt, prompt_id = row.columns.get("prompt"), row.columns.get("prompt_id")
    if not isinstance(prompt, str) or not isinstance(prompt_id, str) or not is_sha256(prompt_id):
        return
    if not any(prompt_mismatch(row)) and prompt_id != sha256(prompt):
        yield "prompt_id", "is not the SHA-256 of prompt, as ultrachat has it"


def is_sha256(text: str) -> bool:
    """Tell whether `text` has the form of a SHA-256 hex digest: other ids are nobody's business."""
    return len(text) == 64 and text.isascii() and text.isalnum()


def sha256(text: str) -> str:
    """Return the hex digest of the UTF-8 bytes; of half a surrogate pair too."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
