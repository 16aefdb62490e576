import json

import pytest

from penala.conversations.show import lines_of, rows_from
from penala.errors import DataError, UsageError

CALL = {"id": "call_1", "type": "function", "function": {"name": "price", "arguments": '{"drink": "kopi"}'}}
TOOL = {"type": "function", "function": {"name": "price", "parameters": {"type": "object"}}}


def shown(judged) -> str:
    return "\n".join(text for _, text in lines_of(judged))


@pytest.fixture
def file(write, rows):
    """Twelve rows, of which the fifth is bad."""
    lines = [json.dumps(row) for row in rows(12)]
    lines[4] = '{"messages": "hello"}'
    return write("train.jsonl", "\n\n".join(lines) + "\n")  # blank lines: rows and lines differ


def test_rows_are_those_from_the_asked_one_on(file):
    """Row and line are told apart, and no more rows come than asked for."""
    judged = rows_from(file, 3, 4)

    assert [one.row for one in judged] == [3, 4, 5, 6]
    assert [one.line for one in judged] == [5, 7, 9, 11]
    assert shown(judged[0]).startswith(f"{file}:5  row 3  2 messages, 38 characters\nuser\n  What does drink number 2")


def test_a_bad_row_is_said_and_not_hidden(file):
    """Its findings stand beside what was read."""
    lines = list(lines_of(rows_from(file, 5, 1)[0]))

    assert [kind for kind, _ in lines] == ["place", "error", "more"]
    assert "row 5 is bad" in lines[0][1]
    assert "[messages_text]" in lines[1][1]
    assert lines[2][1] == 'as it was read: {"messages": "hello"}'


def test_the_last_rows_are_fewer_than_asked_for(file):
    """A limit beyond the end of the file is no error."""
    assert [one.row for one in rows_from(file, 11, 50)] == [11, 12]


def test_tools_calls_and_other_columns_are_shown(write):
    """Who calls what, what a tool answers to, and each other column in one line."""
    messages = [
        {"role": "user", "content": "How much is a kopi?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2.40", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "RM 2.40.", "weight": 1},
    ]
    file = write("tools.jsonl", [{"messages": messages, "tools": [TOOL], "note": "n" * 100}])

    said = shown(rows_from(file, 1, 1)[0])

    assert "tools: price\n" in said
    assert '  calls price({"drink": "kopi"})\n' in said
    assert "tool (tool_call_id: call_1)\n  2.40\n" in said
    assert "assistant (weight: 1)\n" in said
    assert f"note: {'n' * 57}...\n" in said + "\n"


def test_lines_of_a_message_cannot_pose_as_another_speaker(write):
    """What is said is indented, who speaks is not, and control characters are spelled out."""
    text = "hello\nassistant\n  obey\x1b[2J\rno"
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "no"}]
    file = write("spoof.jsonl", [{"messages": messages}])

    lines = list(lines_of(rows_from(file, 1, 1)[0]))

    assert [line for kind, line in lines if kind == "user"] == ["  hello", "  assistant", r"    obey\x1b[2J\rno"]
    assert [line for kind, line in lines if kind.endswith(" name")] == ["user", "assistant"]


def test_a_row_that_is_not_there_is_an_error(file):
    """It says how many there are."""
    with pytest.raises(UsageError, match="there is no record 13; it has 12"):
        rows_from(file, 13, 1)


def test_a_file_that_cannot_be_read_is_an_error(write):
    """The reason is that of the check."""
    with pytest.raises(DataError, match="no parquet file"):
        rows_from(write("x.parquet", b"hello"), 1, 1)


def test_rows_are_read_in_the_schema_that_is_asked_for(write):
    """Other names of columns are mapped as in a check."""
    file = write("alpaca.jsonl", [{"instruction": "Say hi.", "response": "hi"}])

    (judged,) = rows_from(file, 1, 1, schema="alpaca", columns={"output": "response"})

    assert [message.content for message in judged.conversation.messages] == ["Say hi.", "hi"]


def test_rows_of_a_folder_are_counted_in_each_file(write, rows, tmp_path):
    """The first file that has so many is shown; when none has, the longest tells how far one may go."""
    write("set/a.jsonl", rows(2))
    write("set/b.jsonl", rows(5)[2:])

    [judged] = rows_from(tmp_path / "set", 3, 1)
    assert (judged.file, judged.row) == (str(tmp_path / "set/b.jsonl"), 3)
    with pytest.raises(UsageError, match="no record 4; the longest of its 2 files has 3"):
        rows_from(tmp_path / "set", 4, 1)


def test_a_row_of_which_nothing_could_be_read_shows_only_why(write):
    """There is no text to quote."""
    file = write("a.csv", "prompt,completion\nKopi?,caf\u00e9\n".encode("cp1252"))

    assert [kind for kind, _ in lines_of(rows_from(file, 1, 1)[0])] == ["place", "error"]
