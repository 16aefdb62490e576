import json
import re
import shlex
from html.parser import HTMLParser

import pytest

from penala.conversations.check import check
from penala.conversations.report import Collector
from penala.conversations.report_page import report_page
from penala.conversations.report_text import text

BAD = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def chat(question: str, answer: str, **columns):
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **columns,
    }


def report_of(*paths, again: str = ""):
    """Report on files as the command does."""
    collector = Collector()
    checked = check(paths, each=collector.take)
    return collector.figures(checked, None, 2, again)


class Page(HTMLParser):
    """Notes the tags and attributes of a page, and which tags are left open."""

    VOID = frozenset({"meta", "line", "br", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.attributes = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def mixed(write, rows):
    """A file with good rows, a repeated one, a long one, and two bad ones."""
    good = rows(12)
    long = chat("Tell me more. " * 40, " ".join(f"word{n}" for n in range(900)))
    system = {"messages": [{"role": "system", "content": "Be brief."}, *good[0]["messages"], *good[1]["messages"]]}
    lines = [json.dumps(row) for row in [*good, good[0], long, system]]
    return write("mixed.jsonl", "\n".join([*lines, '{"messages": [', '{"messages": "hello"}']) + "\n")


def test_every_row_is_counted_by_file_and_by_outcome(mixed, write, rows):
    """rows = good + bad, in all and for each file, and the schema that each was read in is said."""
    other = write("other.csv", "prompt,completion\n" + "".join(f"q{n},a{n}\n" for n in range(10)))

    figures = report_of(mixed, other)

    assert (figures["rows"], figures["good"], figures["bad"]) == (27, 25, 2)
    assert figures["files"] == [
        {"file": str(mixed), "schema": "messages", "rows": 17, "good": 15},
        {"file": str(other), "schema": "prompt_completion", "rows": 10, "good": 10},
    ]


def test_findings_are_counted_by_code_with_their_first_places(mixed):
    """Errors come first; each code has its count, its places and its fix."""
    findings = report_of(mixed)["findings"]

    assert [(found["level"], found["code"], found["count"]) for found in findings] == [
        ("error", "broken_json", 1),
        ("error", "messages_text", 1),
        ("warning", "duplicate", 1),
    ]
    assert findings[0]["places"] == [f"{mixed}:16"]
    assert findings[0]["fix"]


def test_messages_and_roles_are_those_of_the_good_rows(mixed):
    """Rows by number of messages; each role with its rows, messages and characters."""
    figures = report_of(mixed)

    assert figures["messages_a_row"] == [{"messages": 2, "rows": 14}, {"messages": 5, "rows": 1}]
    assert [(role["role"], role["rows"], role["messages"]) for role in figures["roles"]] == [
        ("assistant", 15, 16),
        ("system", 1, 1),
        ("user", 15, 16),
    ]
    assert figures["roles"][1]["characters"] == len("Be brief.")
    assert figures["lengths"]["total"] == sum(role["characters"] for role in figures["roles"])


def test_lengths_are_in_characters_without_a_model(mixed):
    """The longest row is named, with the commands that show it; the cost is the length times the epochs."""
    figures = report_of(mixed, again=" --schema messages")

    longest = figures["notable"][0]
    assert figures["lengths"]["unit"] == "characters"
    assert (longest["line"], longest["row"]) == (14, 14)
    assert longest["why"].startswith(f"longest: {figures['lengths']['max']:,} characters")
    assert longest["show"] == f"penala data show {mixed} --row 14 --schema messages"
    assert figures["cost"]["total"] == 2 * figures["lengths"]["total"]
    assert figures["model"] is None


def test_a_row_that_stands_out_twice_is_listed_once(mixed):
    """What is odd about it is joined."""
    figures = report_of(mixed)

    places = [(row["file"], row["row"]) for row in figures["notable"]]
    assert len(places) == len(set(places))
    assert any(";" in row["why"] for row in figures["notable"])


def test_a_row_that_repeats_itself_is_odd(write, rows):
    """Half of its word triples came before."""
    file = write("loop.jsonl", [*rows(10), chat("Sing.", "la la li lo " * 60)])

    odd = [row for row in report_of(file)["notable"] if "repeats itself" in row["why"]]

    assert [row["row"] for row in odd] == [11]


def test_exact_and_near_duplicates_are_told_apart(write, rows):
    """A copy is exact, a variant near, and a copy is not counted as near too."""
    base = " ".join(f"word{n}" for n in range(200))
    file = write("near.jsonl", [*rows(10), chat("q", base), chat("q", base), chat("q", base + " end")])

    duplicates = report_of(file)["duplicates"]

    assert (duplicates["exact"], duplicates["near"]["rows"]) == (1, 1)
    assert duplicates["near"]["pairs"] == [{"place": f"{file}:13", "near": f"{file}:11"}]
    assert duplicates["near"]["looked_at"] == 12


def test_a_command_survives_a_file_name_with_spaces(write, rows):
    """The path is quoted as a shell needs it."""
    file = write("two words & é.jsonl", rows(10))

    words = shlex.split(report_of(file)["notable"][0]["show"])

    assert words[:4] == ["penala", "data", "show", str(file)]


def test_the_page_is_one_well_formed_file_that_loads_nothing(mixed):
    """No script, no address, no open tag; headings, table headers and a picture with title and description."""
    html = report_page(report_of(mixed))

    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert not re.search(r"https?:|url\(", html)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert page.tags.count("h1") == 1
    assert {"th", "svg", "title", "desc"} <= set(page.tags)
    assert ("scope", "col") in page.attributes
    assert ("aria-labelledby", "lengths-title lengths-desc") in page.attributes


def test_text_of_the_data_is_never_markup(write, rows):
    """What a row or a file name spells is shown, not obeyed."""
    file = write("<b>bold</b>.jsonl".replace("/", "-"), [*rows(10), chat(BAD, BAD * 50), {"messages": BAD}])

    html = report_page(report_of(file))

    assert "<script" not in html
    assert "onerror=alert(1)>" not in html
    assert "&lt;script&gt;" in html
    assert "<b>bold" not in html


def test_control_characters_of_the_data_reach_neither_page_nor_terminal(write, rows):
    """They are spelled out in both."""
    file = write("control.jsonl", [*rows(10), chat("\x1b]0;owned\x07\u202e evil", "x" * 3000)])

    figures = report_of(file)

    for said in (text(figures), report_page(figures)):
        assert "\x1b" not in said
        assert "\u202e" not in said
        assert r"\x1b]0;owned\x07\u202e evil" in said


def test_the_text_says_what_the_page_says(mixed):
    """Rows, findings, lengths, duplicates and the oddest rows stand in both."""
    figures = report_of(mixed)

    said = text(figures)

    assert said.startswith("17 rows, 15 good, 2 bad\n")
    for part in ("1 x broken_json", f"{mixed}:16", "p50", "--model M counts tokens", "1 say the same", "Roles"):
        assert part in said
    assert figures["notable"][0]["show"] in said


@pytest.mark.parametrize("content", ["", '{"messages": "hello"}\n'])
def test_a_file_without_a_good_row_has_a_report_too(write, content):
    """There is nothing to draw, and the findings say why."""
    figures = report_of(write("nothing.jsonl", content))

    assert "too_few_rows" in text(figures)
    assert "<svg" not in report_page(figures)


def test_many_files_are_shown_with_the_bad_ones_first(write, rows):
    """The page and the text stay short; the figures hold every file."""
    for n in range(30):
        write(f"shards/{n:02}.jsonl", rows(1))
    bad = write("shards/99.jsonl", '{"messages": "hello"}\n')

    figures = report_of(bad.parent)

    assert len(figures["files"]) == 31
    assert "and 11 more files" in text(figures)
    assert "<wbr>99.jsonl</code>" in report_page(figures)


def test_figures_are_plain_json(mixed):
    """What --json prints reads back as the same figures."""
    figures = report_of(mixed)

    assert json.loads(json.dumps(figures)) == figures
