"""The fast way and the careful way through a file agree."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penala.conversations import files, judge, measured
from penala.conversations.check import check
from penala.conversations.judge import Judge
from penala.conversations.measured import VECTOR_BYTES, Measure
from penala.conversations.plain import PlainReader
from penala.conversations.rules import sha256

# texts that are likely to be odd: markers, escapes, blanks, controls, halves of surrogate pairs
TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "hi", '"role"', '\\"', "\\", "\x00", "\x08", "\x7f", "\u200b", "\ud83d", "<|im_end|>", "é\n"]
    ),
    st.text(max_size=8),
)
KEYS = st.sampled_from(["role", "content", "name", "weight"])
ROLES = st.sampled_from(["user", "assistant", "system", "User", "tool", "bot"])
MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": ROLES, "content": TEXTS}),
    st.dictionaries(KEYS, st.one_of(TEXTS, ROLES, st.none(), st.integers()), max_size=3),
)
VALUES = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(TEXTS, max_size=2))
DIALOGUES = st.lists(TEXTS, min_size=2, max_size=4).map(
    lambda texts: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
)


@st.composite
def lines(draw):
    """Draw one line of a file: mostly a row, in one of JSON's spellings, sometimes with a key twice or cut."""
    row = {"messages": draw(st.one_of(DIALOGUES, DIALOGUES, st.lists(MESSAGES, max_size=4)))}
    if draw(st.booleans()):
        row["prompt"] = draw(st.one_of(TEXTS, st.just(row["messages"][0].get("content") if row["messages"] else None)))
        row["prompt_id"] = draw(st.one_of(TEXTS, st.integers(0, 1), st.just(sha256(str(row["prompt"])))))
    row.update(draw(st.dictionaries(st.sampled_from(["id", "tools", "a b", 'q"', "score"]), VALUES, max_size=2)))
    separators = draw(st.sampled_from([(", ", ": "), (",", ":")]))
    line = json.dumps(row, ensure_ascii=draw(st.booleans()), separators=separators)
    line = draw(
        st.sampled_from(
            [line] * 6 + [line[:-1] + ', "id": 1}', line.replace('"role"', '"role":"user","role"', 1), line[:-2]]
        )
    )
    return line.encode("utf-8", "surrogatepass")


FILES = st.lists(lines(), min_size=1, max_size=6).flatmap(lambda some: st.sampled_from([some, some, some + some[:2]]))
LINE_ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\n \n", b"\n\r"])


@pytest.mark.parametrize("in_blocks", [False, True])
def test_the_fast_way_says_and_reads_what_the_careful_way_does(in_blocks, monkeypatch):
    """For any file: the same findings, counts and conversations. A column mapped to itself turns the fast way off, and
    so does somebody who looks at each row, who is told at once what it repeats.
    """
    if in_blocks:  # of a large file, as far as numpy and places to start from go
        monkeypatch.setattr(measured, "VECTOR_BYTES", 0)
        monkeypatch.setattr(files, "BLOCK_BYTES", 300)
        monkeypatch.setattr(judge, "TOGETHER_BYTES", 400)

    @settings(max_examples=120, deadline=None)
    @given(FILES, LINE_ENDS)
    def agree(content, line_end):
        with TemporaryDirectory() as folder:
            path = Path(folder, "a.jsonl")
            path.write_bytes(line_end.join(content))
            fast, careful = check(path), check(path, columns={"messages": "messages"})
            looked_at = check(path, each=lambda judged: None)
            fast_rows, careful_rows = list(fast.rows_again()), list(careful.rows_again())
            last_rows = list(fast.rows_again(len(fast_rows) // 2))

        assert fast.as_dict() == careful.as_dict() == looked_at.as_dict()
        assert fast_rows == careful_rows
        places = [(row.line, row.row) for row in fast_rows]
        assert places == [(row.line, row.row) for row in careful_rows]
        assert last_rows == fast_rows[len(fast_rows) // 2 :]
        assert [(row.line, row.row) for row in last_rows] == places[len(fast_rows) // 2 :]

    agree()


ESCAPED = st.sampled_from([rb"\\", rb"\"", rb"\b", rb"\u0017", rb"\u00e9", rb"\n", b"beta", b"u0017", b'"'])


@given(
    st.lists(
        lines()
        | st.sampled_from([b"", b" ", b'{"\\u0041', b'u\\"', b'\\\\"\\"', b'"\\'])
        | st.lists(ESCAPED).map(b"".join)
    ),
    st.booleans(),
)
def test_numpy_measures_as_bytes_do(content, is_ended):
    """The two ways to measure a block agree, also where what follows escaped backslashes looks like an escape."""
    block = b"\n".join(content) + b"\n" * is_ended

    assert Measure(VECTOR_BYTES).of(block) == Measure().of(block)


@pytest.mark.parametrize("keys", [("role", "content"), ("content", "role")])
@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}, {"ensure_ascii": True}, {"indent": 1}])
def test_plain_rows_take_the_fast_way(style, keys):
    """The rows that most files are made of are proved plain, with and without ultrachat's and other columns."""
    said = {"role": ("user", "assistant"), "content": ('Say "é"\n', "• é <b>% \\")}
    messages = [{key: said[key][i] for key in keys} for i in range(2)]
    row = {"prompt": 'Say "é"\n', "prompt_id": sha256('Say "é"\n'), "messages": messages, "id": 3, "source": None}
    reader = PlainReader(list(row))

    for line in (row, {"messages": messages}, {"messages": messages, "id": "x%"}):
        data = json.dumps(line, **{"ensure_ascii": False, **style}).encode()
        plain = reader.read(data)
        assert plain is not None
        assert [message.content for message in plain.messages[0]] == list(said["content"])
        assert reader.column_values(plain.columns[0]) == {k: value for k, value in line.items() if k != "messages"}
    assert reader.read(json.dumps({**row, "new": 1}).encode()) is None


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("text", "is_plain"), [("$\\\\begin{a} \\\\u0041$", True), ("\\b", False), ("\\\\\\b", False), ("\\u0007", False)]
)
def test_an_escaped_backslash_begins_no_control(text, is_plain, large):
    """LaTeX's names may start like JSON's escapes."""
    row = f'{{"messages": [{{"role": "user", "content": "see {text}"}}, {{"role": "assistant", "content": "so"}}]}}'
    reader = PlainReader(file_bytes=VECTOR_BYTES * large)

    assert (reader.read_lines(row.encode() + b"\n") is not None) == is_plain


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":"), (" ,", ": ")])
def test_plain_lines_are_read_together(separators):
    """However a writer separates, and with one line that is not plain the others are read alone."""
    row = {"id": 1, "messages": [{"role": "user", "content": "a\n"}, {"role": "assistant", "content": "é"}]}
    lines = [json.dumps({**row, "id": i}, ensure_ascii=False, separators=separators).encode() for i in range(3)]
    reader = PlainReader(list(row))
    together = reader.read_lines(b"\n".join(lines) + b"\n")

    assert together is not None
    assert [[message.content for message in row] for row in together.messages] == [["a\n", "é"]] * 3
    assert [reader.column_values(columns) for columns in together.columns] == [{"id": i} for i in range(3)]
    assert reader.read_lines(b"\n".join([*lines, b"{}"])) is None
    twice = lines[1].replace(b'"role"', b'"role":"user","role"', 1)
    assert reader.read_lines(b"\n".join([lines[0], twice])) is None


def test_a_row_says_the_same_in_every_schema(write):
    """Who speaks counts, not what a schema calls the speaker."""
    messages = write(
        "a.jsonl", '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    )
    sharegpt = write("b.jsonl", '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}')

    found = check([messages, sharegpt], minimum_rows=0).findings
    assert [(finding.code, finding.file) for finding in found] == [("in_two_splits", str(sharegpt))]


@pytest.mark.parametrize(
    "marker", ["[INST]", "[TOOL_CALLS]", "[SYSTEM_PROMPT]", "</s>", "<|im_end|>", "<start_of_turn>"]
)
def test_markers_are_seen_in_plain_rows(write, marker):
    """One note a file says how many rows hold one; other brackets are nobody's business."""
    rows = [[f"see {text} here", "so"] for text in (marker, "a < b", "[1]", "[INS]")]
    lines = [
        json.dumps({"messages": [{"role": r, "content": t} for r, t in zip(("user", "assistant"), row, strict=True)]})
        for row in rows
    ]
    (found,) = check(write("a.jsonl", "\n".join(lines)), minimum_rows=0).findings

    assert (found.code, "1 row (line 1)" in found.message) == ("template_markers", True)


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_row_says_the_same_in_every_spelling(ensure_ascii):
    """Escapes, blanks and the order of keys are the writer's: what is said is one."""
    messages = [{"role": "user", "content": "naïve \x0c/"}, {"role": "assistant", "content": 'é\t"\u2028\\'}]
    row = {"prompt": "naïve \x0c/", "messages": messages}
    turned = {"messages": [dict(reversed(message.items())) for message in messages], "prompt": "naïve \x0c/"}
    fast = Judge("messages", {}, list(row))
    careful = Judge("messages", {"messages": "messages"}, list(row))
    one = fast.row(json.dumps(row).encode())[0].said

    assert one is not None
    assert fast.row(json.dumps(turned, ensure_ascii=ensure_ascii).replace("/", "\\/").encode())[0].said == one
    assert careful.row(json.dumps(turned, ensure_ascii=ensure_ascii, indent=0).encode())[0].said == one
