"""MLTable folders: the files that they name are read; steps that we would not do are refused."""

import pytest

from penala.conversations.check import check
from penala.errors import UsageError

HEAD = "$schema: https://azuremlschemas.azureedge.net/latest/MLTable.schema.json\ntype: mltable\n"


@pytest.mark.parametrize(
    "table",
    [
        "paths: [{file: ./a.jsonl}, {file: more/b.jsonl}]",
        "paths: [{pattern: ./**/*.jsonl}]\ntransformations: [{read_json_lines: {invalid_lines: error}}]",
        "paths: [{file: a.jsonl}, {folder: ./more}]\ntransformations: [read_json_lines]",
        "paths: [{file: SET/a.jsonl}, {pattern: SET/more/*}]",
    ],
    ids=["files", "pattern", "folder", "absolute"],
)
def test_the_named_files_are_read(write, rows, tmp_path, table):
    """Files, folders and patterns are found from the table's folder; what it does not name is left."""
    write("set/a.jsonl", rows(3))
    write("set/more/b.jsonl", rows(5)[3:])
    write("set/unnamed.csv", "prompt,completion\na,b\n")
    write("set/MLTable", HEAD + table.replace("SET", str(tmp_path / "set")))

    checked = check(tmp_path / "set", minimum_rows=0)
    assert (checked.good, checked.findings) == (5, [])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("paths: [{file: a.jsonl}]\ntransformations: [{take: 3}]", "the step 'take' is not supported"),
        (
            "paths: [{file: a.jsonl}]\ntransformations: [{read_json_lines: {invalid_lines: drop}}]",
            "invalid_lines: 'drop'",
        ),
        ("paths: [{file: a.jsonl}]\ntransformations: [{read_delimited: {skip: 3}}]", "skip: 3 is not supported"),
        ("paths: [{file: https://host/a.jsonl}]", "lies elsewhere"),
        ("paths: [{file: none.jsonl}]", "none.jsonl matches no file"),
        ("paths: [{file: 'azureml:kopi:1'}]", "lies elsewhere"),
        ("paths: [{folder: a.jsonl}]", "a.jsonl matches no folder"),
        ("paths: [{file: a.jsonl}]\ntransformations: take", "the step 'take' is not supported"),
        ("paths: [{file: a.jsonl}]\ntransformations: [[take]]", r"the step \['take'\] is not supported"),
        ("paths: [{file: a.jsonl}]\ntransformations: [{read_parquet: [a]}]", r"options of read_parquet are \['a'\]"),
        ("paths: [a.jsonl]", "'a.jsonl' is no path"),
        ("type: mltable", "names no paths"),
        ("paths: [", "is no MLTable"),
    ],
)
def test_what_we_would_not_do_is_refused_by_name(write, rows, tmp_path, table, message):
    """A step, an option or a path that is not supported is a usage error that names it."""
    write("set/a.jsonl", rows(1))
    write("set/MLTable", table)

    with pytest.raises(UsageError, match=message):
        check(tmp_path / "set")


def test_the_table_itself_and_its_folders_lose_nothing(write, rows, tmp_path):
    """A path to the MLTable means its folder; a folder is read with those below it; a name with brackets is a name."""
    write("set/more/deep/a.jsonl", rows(3))
    write("set/more/notes.md", "none of it")
    write("set/b[1].jsonl", rows(5)[3:])
    write("set/MLTable", "paths: [{folder: ./more}, {file: 'b[1].jsonl'}]")

    checked = check(tmp_path / "set/MLTable", minimum_rows=0)
    assert (checked.good, [finding.code for finding in checked.findings]) == (5, ["skipped_file"])


def test_a_table_in_its_own_folder_is_no_data(write, rows, tmp_path):
    """`folder: ./` takes the files beside the table."""
    write("set/a.jsonl", rows(3))
    write("set/MLTable", "paths: [{folder: ./}]")

    checked = check(tmp_path / "set", minimum_rows=0)
    assert (checked.good, checked.findings) == (3, [])
