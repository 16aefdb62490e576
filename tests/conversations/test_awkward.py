"""Awkward files get, row by row, the verdict that a person would give them."""

import gzip
import json
from pathlib import Path

import pytest

from penala.conversations.check import Check, check
from penala.conversations.faults import CODES, Fault
from penala.conversations.files import read_records
from penala.conversations.schemas import COLUMNS

SHARED = Path(__file__).parents[3] / "shared" / "data" / "awkward"
RANK = {"error": 2, "warning": 1, "note": 0}

USER, REPLY = {"role": "user", "content": "Teh C kosong, ada?"}, {"role": "assistant", "content": "Ada, RM 2.20."}
ROW = {"messages": [USER, REPLY]}
LINE = json.dumps(ROW, ensure_ascii=False)
OTHER = json.dumps({"messages": [USER, {**REPLY, "content": "Tiada."}]}, ensure_ascii=False)
TRAP = json.dumps({"prompt": "Ignore\nthe table,\nplease", "completion": '"quoted", he said'})

# Our ten hardest: name -> (bytes, the line of each row, the verdict on each row)
HARDEST = {
    "a mark, CRLF, blank lines and no last line end": (
        "a.jsonl",
        b"\xef\xbb\xbf\r\n" + f"{LINE}\r\n  \r\n{OTHER}".encode(),
        [2, 4],
        ["good", "good"],
    ),
    "old line ends around a broken row": (
        "b.jsonl",
        f"{LINE}\r{LINE[:30]}\r\r{OTHER}\r".encode(),
        [1, 2, 4],
        ["good", "error", "good"],
    ),
    "the first row is broken, and looks like the start of printed JSON": (
        "c.jsonl",
        f"{LINE[:-1]},\n{LINE},\n{OTHER}\n".encode(),
        [1, 2, 3],
        ["error", "error", "good"],
    ),
    "printed rows, the middle one broken": (
        "d.json",
        json.dumps([ROW, ROW, json.loads(OTHER)], indent=2)
        .replace("RM 2.20", 'RM" 2.20')
        .replace('RM" 2', "RM 2", 1)
        .encode(),
        [2, 14, 26],
        ["good", "error", "good"],
    ),
    "a key twice, hidden in the last message": (
        "e.jsonl",
        LINE.replace('"Ada', '"x", "content": "Ada').encode(),
        [1],
        ["error"],
    ),
    "three encodings in one file": (
        "f.jsonl",
        LINE.encode() + b"\n" + LINE.replace("Teh C", "Café").encode("cp1252") + b"\n" + b'{"\xff\xfe": 1}\n',
        [1, 2, 3],
        ["good", "error", "error"],
    ),
    "a gzip of a gzip's rows under the wrong name, with a zero tail": (
        "g.json",
        gzip.compress(f"{LINE}\n".encode() + b"\0" * 300),
        [1, 2],
        ["good", "error"],
    ),
    "semicolons, quotes, commas and line ends in every field": (
        "h.csv",
        b'completion;prompt\n"a;b\n""c"",\nd";"e,\r\nf"\n"only one"\n;\n"Ada; RM 2";"Ada?"\n',
        [2, 6, 7, 8],
        ["good", "error", "error", "good"],
    ),
    "silence in every way": (
        "i.jsonl",
        "\n".join(
            json.dumps({"messages": [USER, {"role": "assistant", "content": text}]})
            for text in ("", " ", "\u2060", "\u3164", "\u00ad\ufe0f", "\u200b.", "\x00")
        ).encode(),
        [1, 2, 3, 4, 5, 6, 7],
        ["error", "error", "error", "error", "error", "good", "warning"],
    ),
    "a list of lists of a row, nested texts of JSON, and a trap in the text": (
        "j.jsonl",
        "\n".join(
            [
                json.dumps([ROW]),
                json.dumps({"messages": json.dumps([USER, {**REPLY, "content": TRAP}])}),
                json.dumps({"messages": [json.dumps(USER), json.dumps(REPLY)]}),
                json.dumps({"messages": json.dumps(ROW)}),
                json.dumps({"messages": '[{"role": "user", "content": NaN}]'}),
            ]
        ).encode(),
        [1, 2, 3, 4, 5],
        ["error", "good", "error", "error", "error"],
    ),
}


def verdicts(checked: Check, lines: list[int]) -> list[str]:
    """Return the worst level that was said of each row, good where none was."""
    worst = dict.fromkeys(lines, "good")
    for finding in checked.findings:
        if finding.line is not None and RANK[finding.level] > RANK.get(worst[finding.line], -1):
            worst[finding.line] = finding.level
    return [worst[line] for line in lines]


@pytest.mark.parametrize(("name", "data", "lines", "expected"), HARDEST.values(), ids=HARDEST)
def test_our_ten_hardest_files(write, name, data, lines, expected):
    """Every row is found at its line and judged, and the counts agree with the verdicts."""
    checked = check(write(name, data), minimum_rows=0)

    assert verdicts(checked, lines) == expected
    assert (checked.rows, checked.bad) == (len(lines), expected.count("error"))
    assert [row.line for row in checked.conversations] == [
        line for line, verdict in zip(lines, expected, strict=True) if verdict != "error"
    ]


def shared(name: str) -> dict[str, dict]:
    return json.loads((SHARED / name).read_text(encoding="utf-8")) if SHARED.exists() else {}


MANIFEST, VERDICTS = shared("manifest.json"), shared("verdicts.json")
needs_shared = pytest.mark.skipif(not MANIFEST, reason="the shared awkward files are not here")


@needs_shared
@pytest.mark.parametrize("name", MANIFEST or ["none"])
def test_every_shared_row_gets_its_verdict(name):
    """Each record's word in the manifest has a level in the verdicts, and that is what the check says of its line."""
    facts = MANIFEST[name]
    checked = check(SHARED / name)
    if "rows" not in facts:  # not data: one error for the whole file
        assert [finding.line for finding in checked.findings if finding.level == "error"] in ([None], [1])
        return
    level = {word: level for level in ("good", "warning", "error") for word in VERDICTS[level]}
    if name.startswith("b10"):  # a file of mixed schemas: the rows of the rarer ones are errors
        level |= dict.fromkeys(["alpaca", "sharegpt", "prompt-completion"], "error")
    records = read_records(SHARED / name, COLUMNS)
    lines = [line for line, data in records if not (isinstance(data, Fault) and CODES[data.code].level == "note")]

    assert checked.rows == len(facts["rows"]) == len(lines)
    assert verdicts(checked, lines) == [level[word] for word in facts["rows"]]


@needs_shared
def test_codes_are_the_words_of_the_verdicts():
    """A code of ours that is a word there has the same level."""
    for level in ("warning", "error"):
        for code in (word.replace("-", "_") for word in VERDICTS[level]):
            assert code not in CODES or CODES[code].level == level


@needs_shared
def test_a_shared_folder_is_its_shards():
    """The folder's README and its hidden file are no data."""
    checked = check(SHARED / "f01_folder")

    assert (checked.rows, checked.good) == (4, 4)
    assert sorted(finding.code for finding in checked.findings) == ["skipped_file", "skipped_file", "too_few_rows"]
