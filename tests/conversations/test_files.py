"""From paths to records: formats, encodings, line ends, and the line where each record starts."""

import errno
import gzip
import io
import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penala.conversations.check import check, require
from penala.conversations.files import BLOCK_BYTES, find_files
from penala.errors import DataError, UsageError

ROW = {
    "messages": [{"role": "user", "content": "Teh tarik?"}, {"role": "assistant", "content": "RM 2.50, café style."}]
}
SECOND = {"messages": [{"role": "user", "content": "Kopi?"}, {"role": "assistant", "content": "RM 2.00."}]}
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (ROW, SECOND))
PRETTY = "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in (ROW, SECOND))
CSV = 'prompt,completion\nTeh tarik?,"RM 2.50, café style."\nKopi?,RM 2.00.\n'

JSON_FILES = {
    "utf-8 mark": ("a.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
    "utf-16": ("a.jsonl", LINES.encode("utf-16")),
    "utf-16 big end": ("a.jsonl", b"\xfe\xff" + LINES.encode("utf-16-be")),
    "utf-32": ("a.jsonl", LINES.encode("utf-32")),
    "CRLF": ("a.jsonl", LINES.replace("\n", "\r\n").encode()),
    "CR": ("a.jsonl", LINES.replace("\n", "\r").encode()),
    "no last newline": ("a.jsonl", LINES.rstrip("\n").encode()),
    "gzip": ("a.jsonl.gz", gzip.compress(LINES.encode())),
    "gzip without its suffix": ("a.jsonl", gzip.compress(LINES.encode())),
    "two gzip members": ("a.json.gz", gzip.compress(LINES[:100].encode()) + gzip.compress(LINES[100:].encode())),
    "lines under .json": ("a.json", LINES.encode()),
    "list": ("a.json", json.dumps([ROW, SECOND]).encode()),
    "list under .jsonl": ("a.jsonl", json.dumps([ROW, SECOND]).encode() + b"\n"),
    "list printed over lines": ("a.json", json.dumps([ROW, SECOND], indent=1).encode()),
    "list of lines": ("a.json", ("[" + LINES.replace("}\n{", "},\n{") + "]").encode()),
    "objects printed over lines": ("a.jsonl", PRETTY.encode()),
    "objects over CRLF lines": ("a.jsonl", PRETTY.replace("\n", "\r\n").encode()),
    "under data": ("a.json", json.dumps({"version": {"n": 1}, "data": [ROW, SECOND], "more": []}).encode()),
    "columns": ("a.json", json.dumps({"messages": {"0": ROW["messages"], "1": SECOND["messages"]}}).encode()),
    "csv": ("a.csv", CSV.encode()),
    "csv in utf-16": ("a.csv", CSV.encode("utf-16")),
    "csv of a spreadsheet": ("a.csv", b"\xef\xbb\xbf" + CSV.replace(",", ";", 1).replace("?,", "?;").encode()),
    "tsv": ("a.tsv", CSV.replace(",", "\t", 1).replace("?,", "?\t").encode()),
    "packed csv": ("a.csv.gz", gzip.compress(CSV.encode())),
}


def turns(conversation):
    return [(message.role, message.content) for message in conversation.messages]


def parquet_bytes(table: pa.Table, **options) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def arrow() -> bytes:
    """Return the two rows as datasets.save_to_disk writes them."""
    table, out = pa.Table.from_pylist([ROW, SECOND]), io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


@pytest.mark.parametrize(("name", "data"), JSON_FILES.values(), ids=JSON_FILES)
def test_every_format_gives_the_same_conversations(write, name, data):
    """However a file is written, its two conversations come out alike, and nothing is said about a row."""
    checked = check(write(name, data), minimum_rows=0)

    assert [turns(conversation) for conversation in checked.conversations] == [
        [("user", "Teh tarik?"), ("assistant", "RM 2.50, café style.")],
        [("user", "Kopi?"), ("assistant", "RM 2.00.")],
    ]
    assert not [finding for finding in checked.findings if finding.line is not None]


def test_parquet_and_arrow_give_the_same_conversations(write):
    """A parquet file, an Arrow file and an Arrow stream are read, and the index that pandas leaves is no column."""
    table = pa.Table.from_pylist([ROW, SECOND]).append_column("__index_level_0__", pa.array([7, 8]))
    stream, file = io.BytesIO(), io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)

    for name, data in [
        ("a.parquet", parquet_bytes(table)),
        ("s.arrow", stream.getvalue()),
        ("f.arrow", file.getvalue()),
    ]:
        first, second = check(write(name, data)).conversations
        assert turns(first)[1] == ("assistant", "RM 2.50, café style.")
        assert (second.line, second.row, second.columns) == (2, 2, {})


def test_lines_are_physical_and_rows_are_counted(write):
    """Blank lines are not rows, but they are lines."""
    one, two = LINES.splitlines()
    checked = check(write("a.jsonl", f"\n{one}\n\n  \n\t{two} \n\n"))

    assert [(conversation.line, conversation.row) for conversation in checked.conversations] == [(2, 1), (5, 2)]
    assert (checked.rows, checked.good, checked.bad) == (2, 2, 0)


def test_a_record_of_several_lines_stands_where_it_starts(write):
    """In printed JSON and in quoted CSV fields the line is that of the record's first character."""
    printed = check(write("a.json", json.dumps([ROW, SECOND], indent=2)))
    quoted = check(write("a.csv", 'prompt,completion\n"one\ntwo\nthree",1\n\nfour,4\n'))

    assert [conversation.line for conversation in printed.conversations] == [2, 14]
    assert [conversation.line for conversation in quoted.conversations] == [2, 6]


def test_line_separators_of_unicode_do_not_end_a_line(write):
    """U+2028, U+2029, U+0085 and form feeds inside a text stay there."""
    text = "a\u2028b\u2029c\u0085d\x1ce"
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text.replace("\x1c", "")}]}
    [conversation] = check(write("a.jsonl", json.dumps(row, ensure_ascii=False) + "\n")).conversations

    assert conversation.messages[1].content == "a\u2028b\u2029c\u0085de"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_that_cross_a_block_are_whole(write, end):
    """Rows longer than a block of the reader, and line ends on its border, change nothing."""
    long = {"messages": [{"role": "user", "content": "x" * 2 * BLOCK_BYTES}, {"role": "assistant", "content": "y"}]}
    filler = json.dumps(SECOND)
    text = json.dumps(long) + end + filler + " " * (BLOCK_BYTES - 1 - len(filler)) + end + json.dumps(SECOND) + end
    checked = check(write("a.jsonl", text), minimum_rows=0)

    assert [conversation.line for conversation in checked.conversations] == [1, 2, 3]
    assert {finding.code for finding in checked.findings} == {"very_long", "duplicate"}


def test_a_folder_is_its_shards_in_order(write, tmp_path):
    """Files about the data are passed over in silence; hidden files and those that are no data are named."""
    write("set/train-1.jsonl", [SECOND])
    write("set/train-0.jsonl", [ROW])
    write("set/.hidden.jsonl", "not data")
    write("set/dataset_info.json", "{}")
    write("set/.train-1.jsonl.download.json", "{}")
    write("set/README.md", "# notes")
    checked = check(tmp_path / "set", minimum_rows=0)

    assert [conversation.messages[0].content for conversation in checked.conversations] == ["Teh tarik?", "Kopi?"]
    assert [(finding.file, finding.line, finding.code) for finding in checked.findings] == [
        (str(tmp_path / f"set/{name}"), None, "skipped_file") for name in (".hidden.jsonl", "README.md")
    ]


def test_no_shard_is_lost_behind_a_link(write, tmp_path):
    """A linked folder is read, once even when it leads back; a link to nothing is an error."""
    write("elsewhere/b.jsonl", [SECOND])
    write("set/a.jsonl", [ROW])
    (tmp_path / "set/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/again").symlink_to(tmp_path / "set")
    assert check(tmp_path / "set", minimum_rows=0).good == 2

    (tmp_path / "set/c.jsonl").symlink_to(tmp_path / "gone.jsonl")
    checked = check(tmp_path / "set", minimum_rows=0)
    [finding] = checked.findings
    assert (finding.file, finding.code, finding.line) == (str(tmp_path / "set/c.jsonl"), "unreadable_file", None)
    assert checked.good == 2


def test_no_shard_is_lost_in_a_folder_that_cannot_be_listed(write, tmp_path, monkeypatch):
    """Such a folder is an error like an unreadable file; when nothing can be listed, the path is refused."""
    write("set/a.jsonl", [ROW])
    write("set/closed/b.jsonl", [SECOND])
    really = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    checked = check(tmp_path / "set", minimum_rows=0)
    [finding] = checked.findings
    assert (finding.file, finding.level, finding.line) == (str(tmp_path / "set/closed"), "error", None)
    assert finding.message == "cannot be listed: Permission denied"
    assert [part.unreadable for part in checked.parts] == [1]

    with pytest.raises(UsageError, match="cannot be listed: Permission denied"):
        check(tmp_path / "set/closed")


def test_a_path_that_may_not_be_reached_is_refused(write, monkeypatch):
    """It may be there: nobody can tell."""

    def stat(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = write("a.jsonl", [ROW])
    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(UsageError, match="cannot be reached: Permission denied"):
        find_files(path)


def test_what_datasets_caches_beside_a_saved_set_is_no_part_of_it(write, tmp_path):
    """The state of a saved set names its files; others of the kind came of a `map` over it."""
    write("set/data-0.arrow", arrow())
    write("set/cache-12.arrow", arrow())
    assert check(tmp_path / "set", minimum_rows=0).rows == 4

    write("set/state.json", json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    checked = check(tmp_path / "set", minimum_rows=0)
    [finding] = checked.findings
    assert (finding.file, finding.code) == (str(tmp_path / "set/cache-12.arrow"), "skipped_file")
    assert checked.rows == 2


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/a.jsonl", "test/a.jsonl"], "test, train"),
        (["train.jsonl", "validation_sft.jsonl"], "train, validation"),
        (["data/train-0-of-1.jsonl", "data/test-0-of-1.jsonl"], "test, train"),
        (["split=train/a.jsonl", "split=dev/a.jsonl"], "dev, train"),
        (["train-0.jsonl", "train-1.jsonl"], None),
        (["test-0.jsonl", "trainer.jsonl"], None),
    ],
)
def test_a_folder_of_splits_is_said_to_hold_them(write, tmp_path, names, splits):
    """Train and test in one folder are read as one, which would train on test: a warning."""
    for name in names:
        write(f"set/{name}", [ROW])
    found = [finding for finding in check(tmp_path / "set", minimum_rows=0).findings if finding.code != "duplicate"]

    what = [f"holds the splits {splits}, which are read as one"] if splits else []
    assert [(finding.code, finding.message) for finding in found] == [("several_splits", one) for one in what]


def test_a_pattern_names_the_folders_that_it_leaves_out(write, tmp_path):
    """A folder that a pattern matches is not read, which is said; folders alone are refused."""
    write("set/a.jsonl", [ROW])
    write("set/more/b.jsonl", [SECOND])

    [finding] = check(tmp_path / "set/*", minimum_rows=0).findings
    assert (finding.file, finding.code) == (str(tmp_path / "set/more"), "skipped_file")
    assert check(tmp_path / "set/**/*.jsonl", minimum_rows=0).findings == []
    with pytest.raises(UsageError, match=r"matches folders only"):
        check(tmp_path / "s*")


def test_a_text_file_that_begins_with_columns_is_a_table(write):
    """Spreadsheets write "Unicode text" as UTF-16 with tabs under .txt; other text is JSON, or broken."""
    table = CSV.replace(",", "\t")

    assert check(write("a.txt", table.encode("utf-16")), minimum_rows=0).good == 2
    assert check(write("b.txt", CSV), minimum_rows=0).good == 2
    assert check(write("c.txt", LINES), minimum_rows=0).good == 2


def test_a_wrong_suffix_misleads_nobody(write):
    """JSON under .csv is JSON, a table under .jsonl is a table: the first line says so."""
    for name, text in [("a.csv", LINES), ("b.tsv", json.dumps([ROW, SECOND], indent=1)), ("c.jsonl", CSV)]:
        assert check(write(name, text), minimum_rows=0).good == 2


def test_a_mark_between_joined_files_is_named(write):
    """Whoever joins two files with a mark gets one in the middle."""
    [finding] = check(
        write("a.jsonl", f"\ufeff{json.dumps(ROW)}\n\ufeff{json.dumps(SECOND)}\n"), minimum_rows=0
    ).findings

    assert (finding.line, finding.code) == (2, "broken_json")
    assert "byte order mark" in finding.message


@pytest.mark.timeout(20)
def test_a_pipe_is_an_error_and_nobody_waits(tmp_path):
    """A pipe can be read only once."""
    os.mkfifo(tmp_path / "a.jsonl")

    [finding] = check(tmp_path / "a.jsonl").findings
    assert finding.message == "is no regular file, and is read more than once"


def test_a_glob_is_its_matches_and_an_odd_name_is_a_name(write, tmp_path):
    """A path with brackets that exists is that file; otherwise it is a pattern."""
    write("b.jsonl", [SECOND])
    odd = write("[a] & é.jsonl", [ROW])

    assert find_files(odd).files == [odd]
    assert [path.name for path in find_files(tmp_path / "*.jsonl").files] == ["[a] & é.jsonl", "b.jsonl"]


def test_a_missing_path_is_refused_before_anything_is_read(write, tmp_path):
    """A path that does not exist, a pattern without matches and a folder without data raise UsageError (exit 2)."""
    write("empty/notes.md", "nothing")
    for path in ["none.jsonl", "none/*.jsonl", "empty"]:
        with pytest.raises(UsageError, match=r"no such file|holds no data") as error:
            check([write("a.jsonl", [ROW]), tmp_path / path])
        assert error.value.where == str(tmp_path / path)


UNREADABLE = {
    "cut gzip": ("a.jsonl.gz", gzip.compress(LINES.encode())[:-20], "damaged gzip"),
    "wrong checksum": ("a.jsonl.gz", gzip.compress(LINES.encode())[:-8] + b"\0" * 8, "damaged gzip"),
    "text under .parquet": ("a.parquet", LINES.encode(), "is no parquet file"),
    "text under .arrow": ("a.arrow", LINES.encode(), "is no arrow file"),
    "damaged parquet": ("a.parquet", b"PAR1" + b"\0" * 64, "damaged parquet"),
    "damaged stream": ("a.arrow", b"\xff\xff\xff\xff" + b"\x01" * 64, "damaged Arrow"),
    "a pointer": ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer of Git LFS"),
    "packed twice": ("a.jsonl.gz", gzip.compress(gzip.compress(LINES.encode())), "gzip twice"),
    "packed otherwise": ("a.jsonl", b"\x28\xb5\x2f\xfd" + b"\1" * 64, "packed with zstd"),
    "a database": ("a.json", b"SQLite format 3\0" + b"\0" * 64, "SQLite"),
    "workbook": ("a.csv", b"PK\x03\x04" + b"\0" * 64, "Excel"),
    "unknown suffix": ("a.docx", b"hello", "'.docx' is not one"),
    "utf-16 without a mark": ("a.jsonl", LINES.encode("utf-16-le"), "without its mark"),
    "half a utf-16 letter": ("a.jsonl", LINES.encode("utf-16")[:-1], "cannot be decoded"),
    "zero bytes": ("a.jsonl", b"\0" * 80 + LINES.encode(), "starts with zero bytes"),
    "two columns of a name": ("a.csv", b"prompt,completion,prompt\na,b,c\n", "two columns are named 'prompt'"),
}


@pytest.mark.parametrize(("name", "data", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_finding(write, name, data, message):
    """It is an error about the whole file, no row is trusted, and nothing is raised."""
    checked = check(write(name, data))

    [finding] = checked.findings
    assert (finding.line, finding.level, finding.code) == (None, "error", "unreadable_file")
    assert message in finding.message
    assert checked.rows == 0


def test_a_damaged_page_of_a_parquet_file_is_damage(write):
    """What its reader says is no matter of permissions."""
    data = bytearray(parquet_bytes(pa.Table.from_pylist([ROW, SECOND] * 20), compression="snappy"))
    data[40:80] = b"x" * 40

    [finding] = check(write("a.parquet", bytes(data)), minimum_rows=0).findings
    assert finding.code == "unreadable_file"
    assert "is a damaged parquet file" in finding.message


def test_offsets_that_lead_astray_are_damage(write):
    """Arrow takes them for what they are, and the process would end when they are followed."""
    table, out = pa.table({"prompt": ["K" * 77]}), io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as file:
        file.write_table(table)
    offsets, astray = (bytes(4) + end.to_bytes(4, "little") + b"K" for end in (77, 1 << 30))
    assert out.getvalue().count(offsets) == 1

    [finding] = check(write("a.arrow", out.getvalue().replace(offsets, astray)), minimum_rows=0).findings
    assert finding.code == "unreadable_file"
    assert "is a damaged Arrow file" in finding.message


def test_an_unreadable_file_beside_a_good_one_hides_nothing(write):
    """The other paths are read all the same."""
    checked = check([write("bad.parquet", b"nothing"), write("good.jsonl", [ROW])], minimum_rows=0)

    assert [finding.code for finding in checked.findings] == ["unreadable_file"]
    assert checked.good == 1


def test_two_columns_of_a_name_in_parquet_are_refused(write):
    """As they are in CSV: nobody could tell which one is meant."""
    table = pa.table([["a"], ["b"], ["c"]], names=["prompt", "completion", "completion"])

    [finding] = check(write("a.parquet", parquet_bytes(table)), minimum_rows=0).findings
    assert (finding.code, finding.message) == ("unreadable_file", "two columns are named 'completion'")


def test_rows_that_share_a_line_are_told_apart(write):
    """In a list on a single line the message counts the rows."""
    [first, second] = check(write("a.json", json.dumps([{}, ROW, {"text": "x"}])), minimum_rows=0).findings

    assert (first.line, first.message) == (1, "is an empty object")
    assert (second.line, second.message) == (1, "row 3 is plain text, not a conversation")


def test_a_broken_element_of_a_printed_list_does_not_hide_the_others(codes):
    """Reading goes on at the next element that is indented alike."""
    text = json.dumps([ROW, SECOND, ROW, SECOND], indent=2).replace('"Kopi?"', '"Kopi?', 1)

    assert codes("a.json", text) == {14: ["broken_json"], 26: ["duplicate"]}


@pytest.mark.parametrize(
    ("broken", "good", "bad"),
    [
        (lambda row: row.replace("}", "", 1), 19, 3),  # its messages are read as rows
        (lambda row: row + " x", 20, 1),
        (lambda row: row + "}", 20, 1),
    ],
    ids=["no brace", "a letter", "one brace more"],
)
def test_a_broken_row_of_many_lines_swallows_none_behind_it(write, rows, broken, good, bad):
    """What is left of it are bad rows, however its lines begin; the next row is read again."""
    first, second, *more = [json.dumps(row).replace(', {"role": "a', ',\n{"role": "a') for row in rows(20)]

    checked = check(write("a.jsonl", "\n".join([first, broken(second), *more])))

    assert (checked.good, checked.bad) == (good, bad)


def test_a_row_too_deep_among_columns_is_an_error_of_its_own(codes, rows):
    """As it is in a line: what looks into it would end the check."""
    columns = {"messages": {str(n): row["messages"] for n, row in enumerate(rows(3))}, "more": {"0": 1, "1": 2, "2": 3}}

    assert codes("a.json", json.dumps(columns).replace('"1": 2', '"1": ' + "[" * 600 + "]" * 600)) == {2: ["too_deep"]}


def test_a_broken_element_with_much_white_space_is_passed_at_once(codes):
    """What begins the next element is not looked for from each of the spaces."""
    text = json.dumps([ROW, SECOND]).replace('"Teh tarik?"', '"Teh tarik?' + " " * 100_000)
    started = time.process_time()

    assert codes("a.json", text) == {1: ["broken_json"]}
    assert time.process_time() - started < 3  # 2 ms; it was 10 s


def test_a_zero_byte_in_a_first_line_makes_no_utf_16(codes, rows):
    """The line is broken, the others are read."""
    text = "\n".join(map(json.dumps, rows(3)))

    assert codes("a.jsonl", text[0] + "\0" + text[1:]) == {1: ["broken_json"]}


@pytest.mark.parametrize("between", [",\n   ", "\n  , "], ids=["comma last", "comma first"])
def test_objects_with_a_message_a_line_are_rows(codes, rows, between):
    """As people write them by hand: a line begins with an object, or with what follows on one, and is no row."""
    text = "\n".join(json.dumps(row).replace(', {"role": "a', between + '{"role": "a') for row in rows(4))

    assert text.count("\n") == 7
    assert codes("a.json", text) == {}


@pytest.mark.parametrize("cut", ['{"messages": [{', '{"messages": [', '{"messages":', '{"id": 1,'])
def test_a_first_line_that_was_cut_takes_no_other_with_it(codes, rows, cut):
    """Wherever it was cut, the rows after it are read."""
    good = [json.dumps(row) for row in rows(3)]

    assert codes("a.jsonl", "\n".join([cut, *good, "x"])) == {1: ["broken_json"], 5: ["broken_json"]}


@pytest.mark.parametrize(
    ("indent", "between"),
    [(None, ", "), (None, ",\n"), (1, ", "), (None, "")],
    ids=["on one line", "the first beside the bracket", "each beside the one before", "no list"],
)
def test_a_broken_row_takes_no_other_with_it(write, rows, indent, between):
    """Where lines do not tell the rows apart, the next one begins with the key that the broken one began with."""
    texts = [json.dumps(row, indent=indent) for row in rows(5)]
    texts[0] = texts[0].replace('"RM', "RM")
    joined = between.join(texts)

    checked = check(write("a.json", f"[{joined}]" if between else joined), minimum_rows=0)
    assert (checked.rows, checked.bad_rows) == (5, {"broken_json": 1})


@pytest.mark.parametrize(
    ("text", "broken"),
    [("[{...},", 1), (f"[{json.dumps(ROW)},", 1), (f"[{json.dumps(ROW)} {json.dumps(SECOND)}]", 1), ('{\n"a": [', 1)],
    ids=["no JSON", "not closed", "no comma", "one object"],
)
def test_a_broken_list_comes_to_an_end(codes, text, broken):
    """A list that is broken, lacks a comma or is not closed is told so, and reading ends."""
    assert codes("a.json", text) == {1: ["broken_json"] * broken}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ROW], indent=2) + json.dumps([SECOND], indent=2),
        json.dumps([ROW]) + json.dumps([SECOND]),
        json.dumps([ROW], indent=2) + "\n" + json.dumps(SECOND, indent=2),
        json.dumps({"data": [ROW]}, indent=2) + "\n" + json.dumps({"data": [SECOND]}, indent=2),
        json.dumps({"data": [ROW]}, indent=2) + "\n" + json.dumps([SECOND]),
    ],
    ids=["printed lists", "lists on a line", "a list and an object", "data and data", "data and a list"],
)
def test_what_follows_a_list_is_not_lost(write, text):
    """Files that were written one behind the other give the rows of all."""
    checked = check(write("a.json", text), minimum_rows=0)

    assert (checked.rows, checked.good, checked.findings) == (2, 2, [])


@pytest.mark.parametrize("text", [json.dumps([ROW, SECOND], indent=2), json.dumps({"data": [ROW, SECOND]}, indent=2)])
def test_what_is_no_row_after_a_list_is_an_error(codes, write, text):
    """Whatever stands behind the last row is a broken row of its own."""
    last = text.count("\n") + 2

    assert codes("a.json", text + "\nand so on") == {last: ["broken_json"]}
    assert check(write("a.json", text + "\nand so on"), minimum_rows=0).rows == 3


def test_keys_beside_data_are_named(write):
    """Rows are read under `data` only; other keys of that object may hold some, so they are said."""
    checked = check(
        write("a.json", json.dumps({"version": 1, "data": [ROW], "more": [SECOND]}, indent=2)), minimum_rows=0
    )

    [finding] = checked.findings
    assert (finding.level, finding.code, finding.line, checked.rows) == ("note", "beside_data", None, 1)
    assert finding.message == "only the rows under 'data' are read, not 'version', 'more'"


def test_a_list_whose_rows_are_all_broken_counts_each_once(write):
    """The last broken row swallows the list's end; nothing more is counted for it."""
    text = json.dumps([ROW, SECOND], indent=2).replace("}\n    ]", "},\n    ]")

    checked = check(write("a.json", text), minimum_rows=0)

    assert (checked.rows, checked.bad, [finding.code for finding in checked.findings]) == (2, 2, ["broken_json"] * 2)


def test_windows_1252_is_named_and_never_guessed(write):
    """A row that is not UTF-8 is an error that says what the bytes look like; its neighbours are good."""
    one, two = LINES.splitlines()
    data = one.encode("cp1252") + b"\n" + two.encode() + b"\n"
    table = CSV.encode("cp1252")

    for name, content, line in [("a.jsonl", data, 1), ("a.csv", table, 2)]:
        checked = check(write(name, content), minimum_rows=0)
        [finding] = checked.findings
        assert (finding.code, finding.line, checked.good) == ("not_utf8", line, 1)
        assert "look like Windows-1252" in finding.message


@pytest.mark.parametrize(
    ("odd", "message"),
    [(b"\xed\xa0\xbd", "halves of surrogate pairs"), (b"\xc3", "begin a character that is cut off")],
    ids=["a surrogate", "half a letter"],
)
def test_what_is_nearly_utf_8_is_no_windows_1252(write, odd, message):
    """Bytes that Java wrote, and a row that was cut within a letter, are told for what they are."""
    row = LINES.splitlines()[0].encode()
    cut = row[: row.index("é".encode())] + odd

    found = check(write("a.jsonl", row + b"\n" + cut), minimum_rows=0).findings
    assert [(one.line, one.code) for one in found] == [(2, "not_utf8")]
    assert message in found[0].message


def test_a_lone_surrogate_of_utf_16_is_the_fault_of_its_line(codes):
    """It does not make the whole file unreadable."""
    text = LINES.replace("Kopi?", "Kopi\ud800?")

    assert codes("a.jsonl", text.encode("utf-16", "surrogatepass")) == {2: ["not_utf8"]}


def test_tables_say_which_rows_do_not_fit(codes):
    """Ragged, empty and badly quoted rows are errors at their lines; long fields and quotes are fine."""
    table = f'prompt,completion\na,b\na\na,b,c\n,\n"x"y,z\nlong,"{"w" * 200_000}"\nlast,"never closed\n'

    assert codes("a.csv", table) == {
        3: ["ragged"],
        4: ["ragged"],
        5: ["empty"],
        6: ["broken_csv"],
        7: ["very_long"],
        8: ["broken_csv"],
    }


def test_what_spreadsheets_add_is_no_data(write):
    """A first line that names the separator, and columns without a name or a value, are passed over."""
    told = "sep=;\r\n" + CSV.replace(",", ";", 1).replace("?,", "?;").replace("\n", "\r\n")
    empty = "prompt,completion,,\nTeh tarik?,RM 2.50,,\n"
    index = ",prompt,completion\n0,Teh tarik?,RM 2.50\n"
    other = "prompt;completion;notes, ideas, and more\nTeh tarik?;RM 2.50;none\n"

    spaced = 'prompt, completion\nTeh tarik?, "RM 2.50, please"\n'

    for text in (told, empty, index, other, spaced):
        checked = check(write("a.csv", text), minimum_rows=0)
        assert checked.findings == []
        assert checked.conversations[0].messages[0].content == "Teh tarik?"
    assert check(write("a.csv", told), minimum_rows=0).conversations[1].line == 4
    assert turns(check(write("a.csv", spaced)).conversations[0])[1] == ("assistant", "RM 2.50, please")
    kept = check(write("a.csv", "prompt,completion\nTeh tarik?, RM 2.50\n")).conversations[0]
    assert turns(kept)[1] == ("assistant", " RM 2.50")


def test_a_value_in_a_column_without_a_name_is_an_error(codes):
    """Nobody can tell what it is; it is not dropped in silence."""
    assert codes("a.csv", "prompt,completion,\na,b,\nc,d,stray\n") == {3: ["ragged"]}


def test_an_open_quote_says_what_it_takes(write, rows):
    """All lines to the end of the file belong to that field: no run goes on without them, whatever it may drop."""
    good = "".join(f"drink {i},RM {i}\n" for i in range(12))
    checked = check(write("a.csv", f'prompt,completion\n{good}a,"b\nc,d\ne,f\n'))

    assert [(finding.line, finding.code) for finding in checked.findings] == [
        (14, "broken_csv"),
        (None, "unreadable_file"),
    ]
    assert (checked.rows, checked.good) == (13, 12)
    with pytest.raises(DataError, match="opened on line 14 hides the 2 lines after it"):
        require(checked, split="train", on_bad_row="drop")


def test_types_of_other_programs_are_read(write):
    """Parquet maps are objects, and a time that Python has no type for is no reason to stop."""
    messages = [[[("role", m["role"]), ("content", m["content"])] for m in ROW["messages"]]]
    columns = {
        "messages": pa.array(messages, pa.list_(pa.map_(pa.string(), pa.string()))),
        "when": pa.array([-(10**15)], pa.timestamp("s")),
    }
    checked = check(write("a.parquet", parquet_bytes(pa.table(columns))), minimum_rows=0)
    assert checked.findings == []
    assert turns(checked.conversations[0]) == turns(check(write("a.jsonl", [ROW])).conversations[0])

    twice = pa.array([[[("role", "user"), ("role", "assistant")]]], pa.list_(pa.map_(pa.string(), pa.string())))
    [finding] = check(write("b.parquet", parquet_bytes(pa.table({"messages": twice}))), minimum_rows=0).findings
    assert finding.code == "messages_nested"


def test_two_unnamed_columns_are_pairs_and_said_so(codes, write):
    """A first row that cannot be names is data; a first row that could be names but is not ours is a header."""
    pairs = "Could I have a kopi?,Of course.\nThank you!,You are welcome.\n"

    assert codes("pairs.csv", pairs) == {None: ["no_header"]}
    assert check(write("pairs.csv", pairs)).good == 2
    assert codes("named.csv", "question,answer\nHi there,Hello\n") == {2: ["missing_column"]}
    assert (
        codes("named.csv", "question,answer\nHi,Hello\n", columns={"prompt": "question", "completion": "answer"}) == {}
    )
