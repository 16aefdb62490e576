"""Every rule, by the smallest row that breaks it, and the face of a check."""

import gzip
import json
import operator
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penala.conversations.check import check, require
from penala.conversations.faults import CODES
from penala.conversations.schemas import COLUMNS, MESSAGE_KEYS, SCHEMAS
from penala.errors import DataError, UsageError

USER, REPLY = {"role": "user", "content": "Kopi?"}, {"role": "assistant", "content": "RM 2."}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "price"}}]}
ANSWER = {"role": "tool", "content": "2.00"}
GOOD = json.dumps({"messages": [USER, REPLY]})


def said(*messages, **columns):
    return json.dumps({**columns, "messages": list(messages)})


def user(content):
    return said({"role": "user", "content": content}, REPLY)


def reply(content):
    return said(USER, {"role": "assistant", "content": content})


def role(value):
    return said({"role": value, "content": "Kopi?"}, USER, REPLY)


# code, path, a row that has this finding; what comes with it, in the last place
BAD_ROWS = [
    ("broken_json", "", GOOD[:40]),
    ("broken_json", "", GOOD.replace('"', "'")),
    ("broken_json", "", "// comment"),
    ("broken_json", "", "<html>"),
    ("broken_json", "", "\0\0\0\0"),
    ("broken_json", "", GOOD + ","),
    ("broken_json", "", '{"n": ' + "9" * 5000 + "}"),
    ("broken_json", "", '{"messages": "a\traw tab"}'),
    ("two_on_a_line", "", GOOD + GOOD),
    ("not_an_object", "", "[]"),
    ("not_an_object", "", "null"),
    ("empty_object", "", "{}"),
    ("double_key", "messages", '{"messages": [], "messages": ' + GOOD[13:]),
    ("double_key", "messages[0].role", GOOD.replace('"role": "user"', '"role": "user", "role": "user"')),
    ("nan", "score", GOOD[:-1] + ', "score": NaN}'),
    ("nan", "scores[1].of", GOOD[:-1] + ', "scores": [1, {"of": -Infinity}]}'),
    ("too_deep", "", '{"messages": ' + "[" * 20_000 + "]" * 20_000 + "}"),
    ("too_deep", "", '{"x": ' + "[" * 600 + "]" * 600 + ", " + GOOD[1:]),  # can be decoded, and hardly more
    ("lone_surrogate", "messages[0].content", user("half \ud83d")),
    ("lone_surrogate", "note", said(USER, REPLY, note="half \udc00")),
    ("lone_surrogate", "messages[1].name", said(USER, {**REPLY, "name": "\ud83d"})),
    ("no_messages", "", '{"message": []}'),
    ("no_messages", "messages", '{"messages": []}'),
    ("missing_column", "", '{"instruction": "Say hi", "response": "hi"}'),
    ("no_messages", "", '{"data": "hi"}'),
    ("other_schema", "", '{"prompt": "Say hi", "completion": "hi"}'),
    ("text", "text", '{"text": "once upon a time"}'),
    ("messages_text", "messages", '{"messages": "hello"}'),
    ("messages_object", "messages", '{"messages": {"role": "user", "content": "hi"}}'),
    ("messages_object", "messages[0]", '{"messages": [7]}'),
    ("messages_null", "messages", '{"messages": null}'),
    ("messages_strings", "messages[1]", said(USER, "hello")),
    ("messages_nested", "messages[0]", said([USER, REPLY])),
    ("python_repr", "messages", json.dumps({"messages": str([USER, REPLY])})),
    ("message_null", "messages[1]", said(USER, None, REPLY)),
    ("missing_role", "messages[0]", said({"content": "hi"}, REPLY)),
    ("role_null", "messages[0].role", role(None)),
    ("role_number", "messages[0].role", role(1)),
    ("role_object", "messages[0].role", role({})),
    ("unknown_role", "messages[0].role", role("bot")),
    ("missing_content", "messages[1]", said(USER, {"role": "assistant"})),
    ("null_content", "messages[1].content", reply(None)),
    ("content_number", "messages[1].content", reply(42)),
    ("content_boolean", "messages[1].content", reply(True)),
    ("content_object", "messages[1].content", reply({"text": "hi"})),
    ("content_object", "messages[1].content[0].text", reply([{"type": "text", "text": 7}])),
    ("content_object", "messages[1].content[0]", reply([None])),
    ("list_of_strings", "messages[1].content[0]", reply(["hi"])),
    ("image_part", "messages[1].content[0]", reply([{"type": "image_url"}])),
    ("bad_tools", "messages[1].tool_calls[0]", said(USER, {**CALL, "tool_calls": [{"id": "1"}]}, ANSWER, REPLY)),
    ("bad_tools", "messages[1].tool_calls[0].function", said(USER, {**CALL, "tool_calls": [{"function": {}}]}, ANSWER)),
    ("bad_weight", "messages[1].weight", said(USER, {**REPLY, "weight": 0.5})),
    ("bad_weight", "messages[1].weight", said(USER, {**REPLY, "weight": "1"})),
    ("bad_tools", "tools", said(USER, REPLY, tools={"name": "price"})),
    ("bad_tools", "messages[1].tool_calls", said(USER, {**REPLY, "tool_calls": "price"})),
    ("no_user", "", said(SYSTEM, REPLY)),
    ("no_assistant", "", said(SYSTEM, USER)),
    ("empty_assistant", "messages[1].content", reply("")),
    ("blank_assistant", "messages[1].content", reply(" \n\t")),
    ("invisible_content", "messages[1].content", reply("\u200b\ufeff")),
]
ODD_ROWS = [
    ("user_user", "messages[1]", said(USER, USER, REPLY)),
    ("assistant_assistant", "messages[2]", said(USER, REPLY, REPLY)),
    ("assistant_first", "messages[0]", said(REPLY, USER, REPLY)),
    ("ends_with_user", "messages[2]", said(USER, REPLY, USER)),
    ("ends_with_tool", "messages[2]", said(USER, CALL, ANSWER)),
    ("system_in_middle", "messages[2]", said(USER, REPLY, SYSTEM, USER, REPLY)),
    ("system_last", "messages[2]", said(USER, REPLY, SYSTEM)),
    ("two_systems", "messages[1]", said(SYSTEM, SYSTEM, USER, REPLY)),
    (
        "bad_arguments",
        "messages[1].tool_calls[0].arguments",
        said(USER, {**CALL, "tool_calls": [{"name": "price", "arguments": "{item: kopi}"}]}, ANSWER, REPLY),
    ),
    (
        "null_keys",
        "messages[1].tool_calls[0].arguments.item",
        said(USER, {**CALL, "tool_calls": [{"name": "price", "arguments": {"item": None, "n": 1}}]}, ANSWER, REPLY),
    ),
    (
        "null_keys",
        "tools[0].parameters.properties.n",
        said(USER, REPLY, tools=[{"name": "price", "parameters": {"default": None, "properties": {"n": None}}}]),
    ),
    ("tool_without_call", "messages[1]", said(USER, ANSWER, REPLY)),
    ("role_case", "messages[0].role", said({**USER, "role": "User"}, REPLY)),
    ("role_spaces", "messages[0].role", said({**USER, "role": " user"}, REPLY)),
    ("developer_role", "messages[0].role", said({**SYSTEM, "role": "developer"}, USER, REPLY)),
    ("empty_user", "messages[0].content", user("\u200b")),
    ("empty_system", "messages[0].content", said({"role": "system", "content": " "}, USER, REPLY)),
    ("control_characters", "messages[1].content", reply("bell \x07")),
    ("control_characters", "messages[1].content", reply("\x7f")),
    ("very_long", "", reply("x" * 100_001)),
    ("very_long", "", said(*[USER, REPLY] * 51)),
    ("prompt_null", "prompt", said(USER, REPLY, prompt=None, prompt_id=None)),
    ("prompt_mismatch", "prompt", said(USER, REPLY, prompt="Tea?", prompt_id="0" * 64)),
    ("prompt_id_mismatch", "prompt_id", said(USER, REPLY, prompt="Kopi?", prompt_id="0" * 64)),
]
GOOD_ROWS = {
    "tools": said(USER, CALL, ANSWER, REPLY, tools=[{"type": "function", "function": {"name": "price"}}]),
    "two answers to two calls": said(USER, CALL, ANSWER, ANSWER, REPLY),
    "older function calls": said(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "price", "arguments": "{}"}},
        {"role": "function", "name": "price", "content": "2"},
        REPLY,
        functions=[{"name": "price"}],
    ),
    "no tool calls": said(USER, {**REPLY, "tool_calls": []}, tools=None),
    "text parts": user([{"type": "text", "text": "Kopi"}, {"type": "text", "text": "or teh?"}]),
    "a number past a double": GOOD[:-1] + ', "score": 1e400, "id": 123456789012345678901234567890}',
    "white space controls": reply("a\tb\r\n\x0b\x0cc"),
    "another kind of id": said(USER, REPLY, prompt="Kopi?", prompt_id="row-1"),
    "an id alone": said(USER, REPLY, prompt_id="0" * 64),
    "one letter": said({"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}),
    "system first": said(SYSTEM, USER, REPLY, USER, REPLY),
    "messages as text": json.dumps({"messages": json.dumps([USER, REPLY])}),
    "spaces around a prompt": said(USER, REPLY, prompt=" Kopi? "),
}
BETWEEN_ROWS = {"duplicate", "in_two_splits", "same_prompt", "same_prompt_id"}
OF_FILES = {code for code, (level, _) in CODES.items() if level == "note"} | {
    "unreadable_file",
    "too_few_rows",
    "several_splits",
}
OF_TABLES = {"ragged", "empty", "broken_csv", "not_utf8"}  # see test_files.py


@pytest.mark.parametrize(("code", "path", "row"), BAD_ROWS, ids=[f"{code} {path}" for code, path, _ in BAD_ROWS])
def test_a_bad_row_is_an_error_with_its_place(write, code, path, row):
    """The row is bad, its neighbour is not, and the finding has line, path, code and a way to fix it."""
    other = said({"role": "user", "content": "Teh?"}, REPLY)
    checked = check(write("a.jsonl", f"{other}\n{row}\n"), schema="messages", minimum_rows=0)

    found = [finding for finding in checked.findings if finding.code == code]
    assert [(finding.line, finding.path, finding.level) for finding in found] == [(2, path, "error")]
    assert found[0].message
    assert found[0].fix
    assert (checked.rows, checked.good, checked.bad) == (2, 1, 1)
    assert sum(checked.bad_rows.values()) == 1


@pytest.mark.parametrize(("code", "path", "row"), ODD_ROWS, ids=[f"{code} {path}" for code, path, _ in ODD_ROWS])
def test_an_odd_row_is_a_warning_and_good(write, code, path, row):
    """The row stays good and may be trained; one finding says what is odd and where."""
    checked = check(write("a.jsonl", row), minimum_rows=0)

    assert [(finding.code, finding.path, finding.level) for finding in checked.findings] == [(code, path, "warning")]
    assert checked.good == 1


@pytest.mark.parametrize("row", GOOD_ROWS.values(), ids=GOOD_ROWS)
def test_a_good_row_gets_no_finding(codes, row):
    """Nothing is said about the row, whatever is unusual about it."""
    assert codes("a.jsonl", row) == {}


def test_every_code_is_tried():
    """No code of the table is without a row, here or in the tests between rows and of files, that brings it up."""
    tried = {code for code, _, _ in [*BAD_ROWS, *ODD_ROWS]}

    assert set(CODES) - BETWEEN_ROWS - OF_FILES - OF_TABLES == tried


def test_all_faults_of_a_row_come_at_once(codes):
    """Two messages with three faults give three findings of one row."""
    row = said({"role": "bot", "content": 7}, {"content": None})

    assert codes("a.jsonl", row) == {1: ["unknown_role", "content_number", "missing_role", "null_content"]}


def test_a_role_typo_gets_the_near_name(write):
    """What is often meant is proposed, and so is a near spelling."""
    rows = [said({**USER, "role": name}, USER, REPLY) for name in ("human", "asistant", "narrator")]
    fixes = [finding.fix for finding in check(write("a.jsonl", "\n".join(rows))).findings if finding.line]

    assert fixes[0].endswith("did you mean 'user'?")
    assert fixes[1].endswith("did you mean 'assistant'?")
    assert fixes[2] == "use system, user, assistant or tool"


def test_repeated_rows_are_said_by_what_they_repeat(write):
    """The same words are a duplicate whatever the order of keys; a prompt or an id may repeat on its own."""
    one = {"prompt": "Kopi?", "prompt_id": "1", "messages": [USER, REPLY]}
    turned = {"messages": [dict(reversed(USER.items())), REPLY], "prompt_id": "1", "prompt": "Kopi?"}
    shorter = {**one, "messages": [USER, {**REPLY, "content": "Two."}]}
    teh = {**USER, "content": "Teh?"}
    other = {"prompt": "Teh?", "prompt_id": "1", "messages": [teh, REPLY]}
    checked = check(write("a.jsonl", [one, turned, shorter, other]), minimum_rows=0)

    found = [(finding.line, finding.code) for finding in checked.findings]
    assert found == [(2, "duplicate"), (3, "same_prompt"), (4, "same_prompt_id")]
    assert all("a.jsonl:1" in finding.message for finding in checked.findings)
    assert checked.good == 4


def test_bad_rows_are_nobodys_duplicate(codes):
    """A row that repeats only a bad one is not blamed for it."""
    broken = said({**USER, "role": "bot"}, REPLY, prompt="Kopi?")

    assert codes("a.jsonl", f"{broken}\n{broken}\n") == {1: ["unknown_role"], 2: ["unknown_role"]}


def test_tool_calls_tell_rows_apart(codes):
    """Rows that differ in their calls only are two rows."""
    other = json.loads(json.dumps(CALL).replace("price", "hours"))

    assert codes("a.jsonl", [{"messages": [USER, call, ANSWER, REPLY]} for call in (CALL, other)]) == {}


def test_a_row_in_two_splits_is_said(write):
    """Paths that are checked together are splits: a row in both is named with its other place."""
    train = write("train.jsonl", [{"messages": [USER, REPLY]}])
    test = write("test.jsonl", f"\n{GOOD}\n")
    checked = check([train, test], minimum_rows=0)

    [finding] = checked.findings
    assert (finding.file, finding.line, finding.code) == (str(test), 2, "in_two_splits")
    assert f"{train}:1" in finding.message
    assert [(part.path, part.good) for part in checked.parts] == [(str(train), 1), (str(test), 1)]


def test_markers_of_templates_are_counted_once_a_file(write, rows):
    """Text that spells a marker is good; one note has the count and the lines. Plain markup is no marker."""
    texts = ["<|im_end|>", "</s>", "[INST] hi", "<start_of_turn>", "<b>bold</b> a[1] < 2"]
    checked = check(write("a.jsonl", [{"messages": [{**USER, "content": text}, REPLY]} for text in texts] + rows(9)))

    [finding] = checked.findings
    assert (finding.line, finding.level, finding.code) == (None, "note", "template_markers")
    assert "4 rows (lines 1, 2, 3, 4)" in finding.message


def test_keys_that_no_template_renders_are_counted_once_a_file(write):
    """`thinking` and `name` are said with their count; weight, calls and the name of a tool are not."""
    row = said({**USER, "name": "Mei", "weight": 0}, {**CALL, "thinking": "hm"}, {**ANSWER, "name": "price"}, REPLY)
    checked = check(write("a.jsonl", row), minimum_rows=0)

    assert [(f.line, f.level, f.code, f.path) for f in checked.findings] == [
        (None, "note", "unrendered_keys", "name"),
        (None, "note", "unrendered_keys", "thinking"),
    ]
    assert "'name', which stands in 1 message of 1 row (line 1)" in checked.findings[0].message


def test_columns_that_speak_and_are_not_read_are_named(write, rows):
    """A system prompt beside the messages, or a verdict on the reply, never reaches the model: a note of the file."""
    beside = [{**row, "system": "Be brief.", "id": 7, "label": False, "history": []} for row in rows(12)]
    checked = check(write("a.jsonl", beside))

    [finding] = checked.findings
    assert (finding.line, finding.level, finding.code) == (None, "note", "unread_columns")
    assert finding.message == "rows are read without 'system', 'label', which stands beside what is trained"
    pairs = [{"instruction": f"Say {n}", "input": "twice", "output": f"{n} {n}", "system": "s"} for n in range(12)]
    assert check(write("b.jsonl", pairs)).findings == []


def test_fewer_than_ten_good_rows_are_a_warning_of_each_path(write, rows):
    """Bad rows do not count; an empty file has none."""
    nine = write("nine.jsonl", [*rows(9), {}])
    checked = check([nine, write("ten.jsonl", rows(10)[::-1]), write("none.jsonl", "\n")])

    found = [
        (finding.file, finding.line, finding.level) for finding in checked.findings if finding.code == "too_few_rows"
    ]
    assert found == [(str(nine), None, "warning"), (str(nine.parent / "none.jsonl"), None, "warning")]


def test_the_json_of_a_check_is_complete(write, tmp_path):
    """rows, good, bad and every finding with its seven keys, the same in the file as in memory."""
    checked = check(write("a.jsonl", GOOD + "\nnot JSON\n"))
    checked.write_json(tmp_path / "out.json")

    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found == checked.as_dict()
    assert (found["rows"], found["good"], found["bad"]) == (2, 1, 1)
    assert [list(finding) for finding in found["findings"]] == [
        ["file", "line", "path", "level", "code", "message", "fix"]
    ] * 2


@pytest.mark.parametrize("each", [None, lambda judged: None])
def test_progress_counts_rows_and_bytes(write, tmp_path, each):
    """Every row is told of, at the end with all bytes; a packed file counts when it is read whole."""
    write("1.jsonl", f"{GOOD}\n" * 30)
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress((f"{GOOD}\n" * 20).encode()))
    write("3.jsonl", f"{GOOD}\n" * 50)
    told = []
    check(tmp_path, each=each, progress=lambda rows, share: told.append((rows, share)))

    assert told == sorted(told)
    assert (told[-1][0], round(told[-1][1], 2)) == (100, 1.0)
    assert max(share for rows, share in told if rows <= 50) < 0.5


def test_findings_never_overwrite_a_shard(write, tmp_path):
    """A file of a folder that was checked is data, too."""
    shard = write("shards/a.jsonl", GOOD)

    with pytest.raises(UsageError, match="is the data itself"):
        check(shard.parent).write_json(shard)
    assert shard.read_text() == GOOD


def test_the_summary_counts_no_file_that_could_not_be_read(write):
    """A file that nobody could read was read as nothing."""
    assert check(write("a.parquet", b"x")).summary().splitlines()[1:] == ["0 rows, 0 good, 0 bad"]


def test_no_finding_is_as_long_as_what_it_quotes(write):
    """Where roles and contents are swapped, a role is a whole text: how it begins and ends is said."""
    row = {"messages": [{"role": f"Once {'x' * 100_000} ever", "content": "user"}]}
    [finding, *_] = check(write("a.jsonl", [row]), minimum_rows=0).findings

    assert finding.message.startswith("is 'Once xxx")
    assert finding.message.endswith("xxx ever'")
    assert len(finding.message) < 500


def test_a_file_that_cannot_be_read_leads_the_summary(write):
    """The findings of rows do not push it out of sight."""
    paths = [write("a.jsonl", [{"messages": n} for n in range(30)]), write("b.parquet", b"x")]

    assert "b.parquet: is no parquet file" in check(paths).summary(limit=3).splitlines()[0]


def test_the_summary_shows_errors_first_and_counts_the_rest(write):
    """With more findings than the limit, errors are shown, and what is left is counted by code."""
    text = "\n".join([GOOD] * 4 + ["not JSON"])
    summary = check(write("a.jsonl", text)).summary(limit=2).splitlines()

    assert summary[0].startswith("error: ")
    assert "a.jsonl:5: " in summary[0]
    assert summary[0].endswith("[broken_json]")
    assert summary[2] == "... and 3 more: 2 duplicate, 1 too_few_rows"
    assert summary[3:] == ["1 file read as messages", "5 rows, 4 good, 1 bad"]


def test_what_is_printed_cannot_steer_a_terminal(write):
    """Escapes and halves of surrogate pairs that come out of the data are shown as codes."""
    row = said({**USER, "role": "\x1b[31mred\ud83d"}, USER, REPLY, **{"a\x1bb": "\ud83d"})
    summary = check(write("a.jsonl", row)).summary()

    assert "\x1b" not in summary
    assert "\\x1b[31mred\\ud83d" in summary
    summary.encode("utf-8")


def test_rows_are_read_anew_from_any_number_on(write, rows, tmp_path):
    """Rows of several files and layouts, bad ones between, start where they are asked to start."""
    good = rows(40)
    write("set/a.jsonl", [*good[:12], {}, *good[12:20]])
    write("set/b.json", json.dumps([{}, *good[20:30]]))
    write("set/c.csv", "prompt,completion\n" + "".join(f"{i}?,{i}\n" for i in range(5)))
    write("set/d.jsonl", "\n\n" + "".join(json.dumps(row) + "\r\n" for row in good[30:]))
    checked = check(tmp_path / "set")
    every = list(checked.rows_again())
    places = operator.attrgetter("file", "line", "row")

    assert len(every) == checked.good == 45
    for start in range(46):
        again = list(checked.rows_again(start))
        assert again == every[start:]
        assert list(map(places, again)) == list(map(places, every[start:]))


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"schema": "sharegtp"}, "did you mean 'sharegpt'?"),
        ({"columns": {"outptu": "answer"}}, "did you mean 'output'?"),
    ],
)
def test_unknown_schemas_and_columns_are_refused(write, options, fix):
    """A typo in schema or columns is a usage error with the near name."""
    with pytest.raises(UsageError) as error:
        check(write("a.jsonl", GOOD), **options)

    assert error.value.fix == fix


def test_a_run_requires_good_rows(write, rows):
    """Bad rows stop a split unless they may be dropped; train needs ten rows, the others one."""
    bad = check(write("bad.jsonl", [*rows(11), {}]))
    few = check(write("few.jsonl", rows(9)))
    none = check(write("none.jsonl", ""))

    with pytest.raises(DataError, match=r"1 of 12 rows of train are bad, the first: .*bad.jsonl:12: .*empty_object"):
        require(bad, split="train")
    require(bad, split="train", on_bad_row="drop")
    with pytest.raises(DataError, match="train has 9 good rows, fewer than 10"):
        require(few, split="train")
    require(few, split="test")
    with pytest.raises(DataError, match=r"train has 0 good rows of 1, fewer than 10; .*says what is wrong"):
        require(check(write("bad.jsonl", [{}])), split="train", on_bad_row="drop")
    with pytest.raises(DataError, match=r"`penala data check '.*/my data.jsonl'` lists them all"):
        require(check(write("my data.jsonl", [{}])), split="train")
    with pytest.raises(DataError, match="test has 0 good rows, fewer than 1"):
        require(none, split="test")


def test_no_run_goes_on_without_an_unreadable_file(write, rows, tmp_path):
    """Dropping bad rows does not drop whole files."""
    write("set/a.jsonl", rows(20))
    write("set/b.parquet", b"nothing")

    with pytest.raises(DataError, match="is no parquet file"):
        require(check(tmp_path / "set"), split="train", on_bad_row="drop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_finding(write):
    """It is unreadable, and said so."""
    path = write("a.jsonl", GOOD)
    path.chmod(0)

    assert [finding.code for finding in check(path).findings] == ["unreadable_file"]


KEYS = st.sampled_from(sorted(COLUMNS | MESSAGE_KEYS | {"tool_calls", "type", "text"}))
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["user", "[{}]"])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))
FILES = st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"])


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from(["auto", *SCHEMAS]))
def test_no_row_is_too_strange_to_be_judged(values, schema):
    """For any JSON at all, in any schema: nothing is raised, and each row is good or has an error at its line."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_text("{}\n{}\n" + "".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        checked = check(path, schema=schema)
        good = {conversation.line for conversation in checked.rows_again()}

    bad = {finding.line for finding in checked.findings if finding.level == "error"}
    assert checked.rows == len(values) + 2
    assert checked.bad == len(bad)
    assert bad.isdisjoint(good)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=80) | st.text(max_size=60).map(str.encode),
    FILES,
    st.sampled_from([b"", b"PAR1", b"[", b"{\n", b"\x1f\x8b"]),
)
def test_no_file_is_too_strange_to_be_judged(data, suffix, head):
    """For any bytes under any name: nothing is raised, and reading comes to an end."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "a" + suffix)
        path.write_bytes(head + data)
        checked = check(path)

    assert checked.rows == checked.good + sum(checked.bad_rows.values())
