"""The shapes that rows come in, how a file's shape is found, and columns by other names."""

import json
import re

import pytest

from penala.conversations.check import SHOWN_OF_A_CODE, VOTING_ROWS, check

ALPACA = {"instruction": "Say hi", "input": "", "output": "hi"}
SHAREGPT = {"conversations": [{"from": "human", "value": "Say hi"}, {"from": "gpt", "value": "hi"}]}
PAIR = {"prompt": "Say hi", "completion": "hi"}
TEXTS = {"id": "1", "data": ["Say hi", "hi"]}
MESSAGES = {"messages": [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "hi"}]}
SHAPES = {
    "messages": MESSAGES,
    "sharegpt": SHAREGPT,
    "alpaca": ALPACA,
    "prompt_completion": PAIR,
    "list_of_texts": TEXTS,
}


def read(path, **options):
    """Return the (role, content) pairs of the only row, which must be without fault."""
    checked = check(path, minimum_rows=0, **options)
    assert checked.findings == []
    [conversation] = checked.conversations
    return [(message.role, message.content) for message in conversation.messages]


@pytest.mark.parametrize("schema", SHAPES)
def test_every_schema_is_found_and_can_be_forced(write, schema):
    """Detected or forced, a row of each schema gives the same two messages."""
    path = write("a.jsonl", [SHAPES[schema]])

    assert read(path) == read(path, schema=schema) == [("user", "Say hi"), ("assistant", "hi")]
    assert check(path).schemas == {str(path): schema}


def test_a_file_has_the_schema_of_most_of_its_rows(codes, write):
    """Rows of rarer schemas are errors; at a draw the file is read as messages."""
    rows = [ALPACA, {**ALPACA, "output": "ho"}, MESSAGES, {"text": "plain"}]

    assert codes("a.jsonl", rows) == {3: ["other_schema"], 4: ["text"]}
    assert codes("a.jsonl", rows[1:3]) == {1: ["other_schema"]}
    assert codes("a.jsonl", rows, schema="messages") == {1: ["other_schema"], 2: ["other_schema"], 4: ["text"]}


def test_a_file_that_turns_to_another_schema_is_said_once_with_the_count(write, rows):
    """Rows behind those that vote are errors each; one note counts them, and the summary is not full of them."""
    stranger = {"conversations": [{"from": "human", "value": "Kopi?"}, {"from": "gpt", "value": "RM 2."}]}
    checked = check(write("a.jsonl", [*rows(VOTING_ROWS), *[stranger] * 400, {"text": "x"}]))

    assert (checked.good, checked.bad_rows) == (VOTING_ROWS, {"other_schema": 400, "text": 1})
    [note] = [finding for finding in checked.findings if finding.line is None]
    assert note.message == (
        "each of 400 rows (lines 1001, 1002, 1003, 1004, 1005, ...) is sharegpt, the file is messages"
    )
    summary = checked.summary()
    assert summary.count("[other_schema]") == SHOWN_OF_A_CODE
    assert "[text]" in summary
    assert "[mixed_schemas]" in summary
    assert "... and 390 more: 390 other_schema" in summary


def test_each_file_has_a_schema_of_its_own(write, tmp_path):
    """A folder may hold files of several schemas."""
    files = [write(f"set/{name}.jsonl", [row]) for name, row in SHAPES.items()]
    checked = check(tmp_path / "set", minimum_rows=0)

    assert checked.schemas == {str(file): file.stem for file in files}
    assert checked.good == len(files)


def test_alpaca_joins_input_and_reads_what_stands_before(write):
    """The input follows the instruction after a blank line; system and history come first."""
    row = {**ALPACA, "input": "in Malay", "system": "Be brief.", "history": [["Kopi?", "RM 2."]]}

    assert read(write("a.jsonl", [row])) == [
        ("system", "Be brief."),
        ("user", "Kopi?"),
        ("assistant", "RM 2."),
        ("user", "Say hi\n\nin Malay"),
        ("assistant", "hi"),
    ]


def test_sharegpt_knows_its_own_roles(codes, write):
    """human, gpt and observation are translated, a system column comes first, and paths use ShareGPT's keys."""
    turns = [("human", "Kopi?"), ("gpt", "One moment."), ("observation", "2.00"), ("gpt", "RM 2.")]
    row = {"system": "Be brief.", "conversations": [{"from": role, "value": text} for role, text in turns]}
    [conversation] = check(write("a.jsonl", [row])).conversations
    wrong = {"conversations": [{"from": "narrator", "value": 7}]}
    paths = [finding.path for finding in check(write("b.jsonl", [wrong])).findings]

    assert [message.role for message in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert paths[:2] == ["conversations[0].from", "conversations[0].value"]
    assert codes("a.jsonl", [row]) == {1: ["tool_without_call"]}


def test_prompt_and_completion_may_be_lists_of_messages(write):
    """The conversational form of prompt and completion is joined."""
    system, user, reply = ({"role": role, "content": role} for role in ("system", "user", "assistant"))

    roles = [role for role, _ in read(write("a.jsonl", [{"prompt": [system, user], "completion": [reply]}]))]
    assert roles == ["system", "user", "assistant"]


def test_tables_hold_the_lists_of_prompt_and_completion_as_text(write, codes):
    """They are read as messages are, from JSON; a list in Python's notation is an error, and never trained as text."""
    prompt, completion = [{"role": "user", "content": "Kopi?"}], [{"role": "assistant", "content": "RM 2"}]
    quoted = [json.dumps(side).replace('"', '""') for side in (prompt, completion)]

    assert read(write("a.csv", 'prompt,completion\n"{}","{}"\n'.format(*quoted))) == [
        ("user", "Kopi?"),
        ("assistant", "RM 2"),
    ]
    assert codes("b.csv", f'prompt,completion\n"{prompt}","{completion}"\n') == {2: ["python_repr", "python_repr"]}
    assert read(write("c.jsonl", [{"prompt": json.dumps(prompt), "completion": "is JSON"}]))[1] == (
        "assistant",
        "is JSON",
    )


def test_the_text_of_a_row_is_not_touched(write):
    """Outer white space, line ends and marks inside texts come through as they are."""
    text = " \t a\r\nb \u200b\ufeff\u00a0 "

    assert read(write("a.jsonl", [{"prompt": text, "completion": text}])) == [("user", text), ("assistant", text)]


def test_columns_may_go_by_other_names(write):
    """A mapping from our names to the file's reads any of them, and messages by other keys; paths keep the file's."""
    alpaca = write("a.jsonl", [{"instruction": "Say hi", "input": "", "response": "hi"}])
    keys = write(
        "b.json", json.dumps([{"dialog": [{"who": "user", "what": "Say hi"}, {"who": "assistant", "what": "hi"}]}])
    )
    columns = {"messages": "dialog", "role": "who", "content": "what"}
    broken = write("c.jsonl", [{"dialog": [{"who": "bot", "what": None}]}])

    expected = [("user", "Say hi"), ("assistant", "hi")]
    assert read(alpaca, columns={"output": "response"}) == read(keys, columns=columns) == expected
    paths = [finding.path for finding in check(broken, columns=columns).findings]
    assert paths[:2] == ["dialog[0].who", "dialog[0].what"]


def test_a_column_that_is_nearly_ours_gets_a_hint(write):
    """Rows that are alpaca but for one name say which column is missing and how to name it."""
    rows = [{"instruction": "Say hi", "input": "", "response": "hi"}, {"Messages": []}]
    first, second, *_ = check(write("a.jsonl", rows)).findings

    assert "has no 'output', only 'input', 'instruction', 'response'" in first.message
    assert "--column output=response" in first.fix
    assert "--column messages=Messages" in second.fix


FROM_VALUE = [{"from": "human", "value": "Kopi?"}, {"from": "gpt", "value": "RM 2."}]
ROLE_CONTENT = [{"role": "user", "content": "Kopi?"}, {"role": "assistant", "content": "RM 2."}]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Kopi?", "answer": "RM 2."},
        {"Prompt": "Kopi?", "Completion": "RM 2."},
        {"instruction": "Kopi?", "response": "RM 2."},
        {"prompt": "Kopi?", "response": "RM 2."},
        {"items": FROM_VALUE},
        {"dialog": ROLE_CONTENT},
        {"conversations": ROLE_CONTENT},
        {"messages": FROM_VALUE},
    ],
    ids=str,
)
def test_the_fix_for_other_names_reads_the_row(write, row):
    """Whoever types the options that the finding names has a good row."""
    path = write("a.jsonl", [row])
    fix = check(path).findings[0].fix
    columns = dict(re.findall(r"--column (\w+)=(\w+)", fix))

    assert "THEIRS" not in fix
    assert read(path, columns=columns) == [("user", "Kopi?"), ("assistant", "RM 2.")]


def test_a_named_column_is_the_one_that_is_read(write):
    """A column that has our name already gives way, wherever it stands in the row."""
    for row in ({"response": "right", "output": "wrong"}, {"output": "wrong", "response": "right"}):
        path = write("a.jsonl", [{"instruction": "Say it", **row}])
        assert read(path, columns={"output": "response"}) == [("user", "Say it"), ("assistant", "right")]


def test_a_list_of_rows_under_another_key_is_named(write):
    """A file that holds {"train": [...]} is one row that says how to write it."""
    [finding] = check(write("a.json", json.dumps({"train": [MESSAGES]})), minimum_rows=0).findings

    assert (finding.path, finding.message) == ("train", "is a list of rows")


@pytest.mark.parametrize("value", [0, False, 7, {}])
def test_an_input_that_is_no_text_is_not_left_out(codes, value):
    """Null and "" are no input; a number is one, though written wrongly."""
    [found] = codes("a.jsonl", [{**ALPACA, "input": value}]).values()

    assert found[0] in ("content_number", "content_boolean", "content_object")
    assert codes("a.jsonl", [{**ALPACA, "input": None}, {**ALPACA, "input": ""}]) == {2: ["duplicate"]}


def test_what_nobody_consumed_stays_a_column(write):
    """Other columns travel along; tools become tools; null keys of messages vanish."""
    tools = [{"type": "function", "function": {"name": "price"}}]
    messages = [{**MESSAGES["messages"][0], "name": None}, {**MESSAGES["messages"][1], "weight": 0}]
    row = {"id": 7, "tags": ["a"], "messages": messages, "tools": json.dumps(tools)}
    [conversation] = check(write("a.jsonl", [row])).conversations

    assert conversation.columns == {"id": 7, "tags": ["a"]}
    assert conversation.tools == tuple(tools)
    assert [message.extra for message in conversation.messages] == [{}, {"weight": 0}]


def test_an_assistant_that_only_calls_tools_has_no_text(write):
    """Null content beside calls is empty text, and older function calls become tool calls."""
    call = {"role": "assistant", "content": None, "function_call": {"name": "price", "arguments": "{}"}}
    answer = {"role": "function", "name": "price", "content": "2"}
    [conversation] = check(write("a.jsonl", [{"messages": [MESSAGES["messages"][0], call, answer]}])).conversations

    _, called, answered = conversation.messages
    assert called.content == ""
    assert called.extra == {"tool_calls": [{"type": "function", "function": {"name": "price", "arguments": "{}"}}]}
    assert answered.role == "tool"
