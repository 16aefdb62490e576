"""The records, and the rows that steps hand to each other."""

import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penala.conversations.check import check
from penala.conversations.conversation import Conversation, Finding, Message, read_jsonl, write_jsonl
from penala.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MESSAGE = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    TEXT,
    st.dictionaries(st.sampled_from(["name", "weight"]), st.one_of(TEXT, st.integers()), max_size=2),
)
COLUMNS = st.dictionaries(
    TEXT.filter(lambda key: key not in ("messages", "tools")), TEXT | st.integers() | st.none(), max_size=3
)
TOOLS = st.none() | st.just(({"type": "function", "function": {"name": "price"}},))
CONVERSATION = st.builds(Conversation, st.lists(MESSAGE, min_size=1, max_size=4).map(tuple), TOOLS, COLUMNS)


def write_rows(path, conversations):
    """Write a file of canonical rows."""
    with path.open("wb") as file:
        write_jsonl(file, conversations)


@settings(max_examples=50, deadline=None)
@given(st.lists(CONVERSATION, max_size=4))
def test_rows_come_back_as_they_were_written(tmp_path_factory, conversations):
    """Writing and reading any conversations gives equal ones, and the same bytes each time."""
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"

    write_rows(path, conversations)
    first = path.read_bytes()
    back = list(read_jsonl(path))
    write_rows(path, back)

    assert back == conversations
    assert path.read_bytes() == first
    assert [(row.file, row.line, row.row) for row in back] == [(str(path), i, i) for i in range(1, len(back) + 1)]


def test_canonical_rows_are_plain_messages(tmp_path, write, rows):
    """What was written is checked without a word."""
    conversations = check(write("a.jsonl", rows(12))).conversations
    write_rows(tmp_path / "out.jsonl", conversations)

    again = check(tmp_path / "out.jsonl")
    assert again.conversations == conversations
    assert again.findings == []


def test_columns_that_json_cannot_hold_are_written_all_the_same(tmp_path):
    """NaN becomes null, a date its text."""
    columns = {"score": math.nan, "scores": [1.0, math.inf], "when": {1, 2}.__class__}
    write_rows(tmp_path / "a.jsonl", [Conversation((Message("user", "hi"),), None, columns)])

    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert (row["score"], row["scores"]) == (None, [1.0, None])
    assert isinstance(row["when"], str)


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"messages": [{"role": "user"}]}', '{"messages": [{"role": 1, "content": ""}]}']
)
def test_a_row_of_another_hand_is_refused(write, line):
    """Only what write_jsonl wrote is read; anything else names file and line."""
    path = write("a.jsonl", '{"messages": []}\n' + line + "\n")

    with pytest.raises(DataError, match="is not a row that penala wrote") as error:
        list(read_jsonl(path))
    assert error.value.where == f"{path}:2"


def test_conversations_are_values():
    """Equal where they say the same, wherever they stand; they can be hashed and sent to another process."""
    one = Conversation((Message("user", "hi", {"name": "Mei"}),), columns={"id": [1]}, file="a", line=1, row=1)
    two = Conversation((Message("user", "hi", {"name": "Mei"}),), columns={"id": [1]}, file="b", line=9, row=9)

    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.as_dict() == {"messages": [{"role": "user", "content": "hi", "name": "Mei"}], "id": [1]}


def test_a_finding_is_one_line():
    """Whatever the file is called."""
    finding = Finding("a\nb\x1b.jsonl", 3, "messages", "error", "messages_null", "is null", "write a list")

    assert str(finding) == r"error: a\nb\x1b.jsonl:3: messages: is null; write a list [messages_null]"
