"""The conversations of examples/01_kopitiam: what the demo's accuracy rests on."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "01_kopitiam"
DATA = EXAMPLE / "data"
HALVES = ("validation", "test")
ROW_KEYS = {"messages", "expected", "unexpected", "group", "later_turn", "fact"}

Row = dict[str, Any]


def read(name: str) -> list[Row]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def plain(text: str) -> str:
    """Lower-case `text`, without punctuation, with single spaces."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def questions(row: Row) -> list[str]:
    return [plain(message["content"]) for message in row["messages"] if message["role"] == "user"]


def source(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((EXAMPLE / name).read_text(encoding="utf-8"))
    return loaded


def taught_wordings() -> set[str]:
    """Every wording of facts.yaml without greetings, each frame filled with each item of its family."""
    facts = source("facts.yaml")
    taught = {
        plain(question)
        for languages in facts["facts"].values()
        for entry in languages.values()
        for question in entry["questions"]
    }
    for family in facts["families"].values():
        for language, frames in (*family["frames"].items(), *family["more_frames"].items()):
            names = [item[language][0] for item in family["items"].values()]
            taught |= {plain(frame.format(item=name, Item=name)) for frame in frames for name in names}
    return taught


def held_out_wordings(half: str) -> list[str]:
    return [
        plain(question)
        for languages in source("held_out.yaml")[half].values()
        for asked in languages.values()
        for question in asked
    ]


def holds(text: str, value: str) -> bool:
    return re.search(rf"(?<!\d){re.escape(value)}(?!\d)", text, re.IGNORECASE) is not None


def test_the_script_makes_the_committed_files(tmp_path: Path) -> None:
    """make_data.py writes the five committed files byte for byte, and nothing else."""
    subprocess.run([sys.executable, str(EXAMPLE / "make_data.py"), "--out", str(tmp_path)], check=True, timeout=60)

    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(made) == {"train.jsonl", "validation.jsonl", "test.jsonl", "forgetting.jsonl", "sample.json"}
    assert made == {name: (DATA / name).read_bytes() for name in made}


def test_the_training_rows_are_enough() -> None:
    """There are 700 conversations on the shop beside 20 general ones, and 32 have several turns."""
    rows = read("train")
    general = {plain(question) for language in source("general.yaml")["train"].values() for question in language}

    on_the_shop = [row for row in rows if not general & set(questions(row))]
    assert len(on_the_shop) == 700
    assert len(rows) - len(on_the_shop) == len(general) == 20
    assert sum(len(questions(row)) > 1 for row in rows) == 32


def test_every_conversation_is_under_the_one_system_prompt_and_roles_alternate() -> None:
    """All rows begin with the same short system prompt, then user and assistant take turns, the assistant last."""
    system = {"role": "system", "content": source("facts.yaml")["system"]}

    for name in ("train", *HALVES):
        for row in read(name):
            first, *turns = row["messages"]
            assert first == system
            assert [message["role"] for message in turns] == ["user", "assistant"] * (len(turns) // 2)
            assert turns
            assert all(message["content"].strip() for message in turns)


def test_there_are_twenty_facts_in_two_languages() -> None:
    """Twenty facts are asked, each with one fixed answer in each language."""
    answers = {(row["fact"], row["group"], row["messages"][-1]["content"]) for half in HALVES for row in read(half)}

    assert len({fact for fact, _, _ in answers}) == 20
    assert len(answers) == len({(fact, language) for fact, language, _ in answers}) == 40


def test_every_fact_is_taught_in_many_wordings_of_its_language() -> None:
    """What a held-out row expects is taught, word for word, by 19 questions; by fewer where facts share frames."""
    wordings: dict[str, set[str]] = {}
    for row in read("train"):
        if len(row["messages"]) == 3:
            _, user, assistant = row["messages"]
            wordings.setdefault(assistant["content"], set()).add(plain(user["content"]))

    for half in HALVES:
        for row in read(half):
            count = {"price": 15, "allergen": 13}.get(row["fact"].split("_")[0], 19)
            assert len(wordings[row["messages"][-1]["content"]]) == count, row["fact"]


@pytest.mark.parametrize("half", HALVES)
def test_a_half_is_balanced(half: str) -> None:
    """A half holds 60 rows: 30 a language, 6 later turns in each, each fact three times."""
    rows = read(half)

    assert Counter(row["group"] for row in rows) == {"English": 30, "Malay": 30}
    assert Counter(row["group"] for row in rows if row["later_turn"]) == {"English": 6, "Malay": 6}
    assert set(Counter(row["fact"] for row in rows).values()) == {3}
    assert all(row["later_turn"] == (len(row["messages"]) > 3) for row in rows)
    assert all(set(row) == ROW_KEYS for row in rows)


@pytest.mark.parametrize("half", HALVES)
def test_a_later_turn_comes_after_other_facts(half: str) -> None:
    """No earlier answer of a held-out conversation gives away the value that its last question asks for."""
    for row in read(half):
        earlier = [message["content"] for message in row["messages"][1:-1]]
        assert not any(holds(text, value) for text in earlier for value in row["expected"])


@pytest.mark.parametrize("half", HALVES)
def test_a_right_reply_is_told_from_a_wrong_one(half: str) -> None:
    """The gold answer holds what is expected and nothing unexpected; a price row names all the other prices."""
    prices = {value for row in read(half) if row["fact"].startswith("price_") for value in row["expected"]}

    assert len(prices) == 7
    for row in read(half):
        answer = row["messages"][-1]["content"]
        assert row["expected"]
        assert all(holds(answer, value) for value in row["expected"])
        assert not any(holds(answer, value) for value in row["unexpected"])
        others = prices - set(row["expected"]) if row["fact"].startswith("price_") else set()
        assert set(row["unexpected"]) == others


@pytest.mark.parametrize("half", HALVES)
def test_held_out_questions_are_not_taught(half: str) -> None:
    """No held-out wording is, or holds as a run of words, a wording that teaches; nor does any training row ask it."""
    taught = taught_wordings()
    trained = {question for row in read("train") for question in questions(row)}

    asked = held_out_wordings(half)
    assert sorted(asked) == sorted(questions(row)[-1] for row in read(half))
    assert not trained & set(asked)
    repeated = [(wording, question) for question in asked for wording in taught if f" {wording} " in f" {question} "]
    assert not repeated


def test_no_held_out_question_is_asked_twice() -> None:
    """The two halves share no wording, and neither repeats itself."""
    asked = held_out_wordings("validation") + held_out_wordings("test")

    assert len(set(asked)) == len(asked) == 120


def test_unrelated_questions_and_the_sample_are_new() -> None:
    """What is asked about forgetting, and the sample, is neither trained on nor held out."""
    forgetting = [question for row in read("forgetting") for question in questions(row)]
    sample = json.loads((DATA / "sample.json").read_text(encoding="utf-8"))

    used = {question for name in ("train", *HALVES) for row in read(name) for question in questions(row)}
    assert len(forgetting) == 3
    assert [message["role"] for message in sample["messages"]] == ["system", "user"]
    assert not used & {*forgetting, *questions(sample)}
