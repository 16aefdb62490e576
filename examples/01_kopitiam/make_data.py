"""Write the conversations of the example: `python make_data.py` gives the same bytes every time.

facts.yaml says what the assistant has to know and how it is taught, general.yaml what it should keep knowing,
held_out.yaml how it is asked afterwards. Out come, in data/:

    train.jsonl       700 conversations on the shop and 20 on anything else
    validation.jsonl  60 held-out questions, to look at while data and settings are tuned
    test.jsonl        60 other held-out questions, to be used once
    forgetting.jsonl  three unrelated questions
    sample.json       the conversation that is scored at the end of a run
"""

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
LANGUAGES = ("English", "Malay")
# How many wordings teach a fact in each language: of an item, so many of its family's frames and more_frames; of a fact
# of its own a few more, for no other fact teaches its questions too. Fewer for prices was tried: they were mixed up.
TAUGHT_FRAMES = {"price": (9, 6), "allergen": (8, 5)}
TAUGHT_WORDINGS = 19
# Earlier turns of held-out conversations keep to the first wordings and frames, so that the held-out files stay the
# same when the training rows change.
FIRST_WORDINGS = 12
MULTI_TURN_PER_LANGUAGE = 16
LATER_TURNS_PER_LANGUAGE = 6  # of the 30 held-out questions of a half
POLITE_SHARE = 0.25

Message = dict[str, str]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One fact in one language: the fixed answer, what a right reply contains, the wordings that teach it.

    `first_wordings` are those that earlier turns of held-out conversations choose from.
    """

    fact: str
    language: str
    answer: str
    expected: str
    wordings: tuple[str, ...]
    first_wordings: tuple[str, ...]

    @property
    def is_price(self) -> bool:
        return self.fact.startswith("price_")


def rotated(frames: Sequence[str], number: int, of: int, count: int) -> list[str]:
    """Give item `number` of `of` items `count` of the frames, beginning at its share of the way through them."""
    start = number * len(frames) // of
    return [frames[(start + i) % len(frames)] for i in range(count)]


def family_lessons(kind: str, family: Mapping[str, Any]) -> list[Lesson]:
    """Fill the frames of one family with its items, so that each frame is used for about equally many of them."""
    lessons = []
    num_items = len(family["items"])
    num_frames, num_more = TAUGHT_FRAMES[kind]
    for number, (item, names) in enumerate(family["items"].items()):
        for language in LANGUAGES:
            name, value = names[language]
            words = {"item": name, "Item": name[0].upper() + name[1:], "value": value}
            frames, more_frames = family["frames"][language], family["more_frames"][language]
            taught = [
                *rotated(frames, number, num_items, num_frames),
                *rotated(more_frames, number, num_items, num_more),
            ]
            first = rotated(frames, number, num_items, FIRST_WORDINGS)
            answer = family["answer"][language].format(**words)
            wordings, first_wordings = (tuple(frame.format(**words) for frame in some) for some in (taught, first))
            lessons.append(Lesson(f"{kind}_{item}", language, answer, value, wordings, first_wordings))
    return lessons


def all_lessons(source: Mapping[str, Any]) -> list[Lesson]:
    """Give each fact of facts.yaml as two lessons, one a language."""
    lessons = []
    for kind, family in source["families"].items():
        lessons += family_lessons(kind, family)
    for fact, languages in source["facts"].items():
        for language in LANGUAGES:
            entry = languages[language]
            questions = tuple(entry["questions"])
            wordings, first_wordings = questions[:TAUGHT_WORDINGS], questions[:FIRST_WORDINGS]
            lessons.append(Lesson(fact, language, entry["answer"], entry["expected"], wordings, first_wordings))
    return lessons


def turn(question: str, answer: str) -> list[Message]:
    """Give a question and its answer as two messages."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class Writer:
    """Turns lessons into rows under the shop's system prompt."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self.system: Message = {"role": "system", "content": source["system"]}
        self.openers: Mapping[str, list[str]] = source["openers"]
        self.closers: Mapping[str, list[str]] = source["closers"]
        self.lessons = all_lessons(source)
        self.prices = sorted({lesson.expected for lesson in self.lessons if lesson.is_price})

    def training_rows(self, general: Mapping[str, Mapping[str, str]]) -> list[Row]:
        """Give one row a wording, the multi-turn rows and the general ones, shuffled."""
        rng = random.Random("kopitiam/train")
        conversations = [
            turn(self._polite(wording, lesson.language, rng), lesson.answer)
            for lesson in self.lessons
            for wording in lesson.wordings
        ]
        for language in LANGUAGES:
            conversations += [
                self._taught_turns(language, rng, rng.choice((2, 2, 3))) for _ in range(MULTI_TURN_PER_LANGUAGE)
            ]
            conversations += [turn(question, answer) for question, answer in general[language].items()]
        rng.shuffle(conversations)
        return [{"messages": [self.system, *messages]} for messages in conversations]

    def held_out_rows(self, half: str, questions: Mapping[str, Mapping[str, list[str]]]) -> list[Row]:
        """Give one row a question of the half, some as the later turn of a conversation about other facts."""
        rng = random.Random(f"kopitiam/{half}")
        rows = []
        for language in LANGUAGES:
            asked = [
                (lesson, question)
                for lesson in self.lessons
                if lesson.language == language
                for question in questions[lesson.fact].get(language, ())
            ]
            later = set(rng.sample(range(len(asked)), LATER_TURNS_PER_LANGUAGE))
            for number, (lesson, question) in enumerate(asked):
                num_before = rng.choice((1, 2)) if number in later else 0
                before = self._taught_turns(language, rng, num_before, but=lesson.fact, first_only=True)
                rows.append(self._held_out_row(lesson, question, before))
        rng.shuffle(rows)
        return rows

    def _held_out_row(self, lesson: Lesson, question: str, before: list[Message]) -> Row:
        others = [price for price in self.prices if price != lesson.expected] if lesson.is_price else []
        return {
            "messages": [self.system, *before, *turn(question, lesson.answer)],
            "expected": [lesson.expected],
            "unexpected": others,
            "group": lesson.language,
            "later_turn": bool(before),
            "fact": lesson.fact,
        }

    def _taught_turns(
        self, language: str, rng: random.Random, num_turns: int, but: str = "", first_only: bool = False
    ) -> list[Message]:
        """Ask for `num_turns` different facts, other than `but`, in the wordings that teach them or the first ones."""
        known = [lesson for lesson in self.lessons if lesson.language == language and lesson.fact != but]
        messages = []
        for lesson in rng.sample(known, num_turns):
            wordings = lesson.first_wordings if first_only else lesson.wordings
            messages += turn(self._polite(rng.choice(wordings), language, rng), lesson.answer)
        return messages

    def _polite(self, question: str, language: str, rng: random.Random) -> str:
        """Put a greeting before, or thanks behind, a share of the questions."""
        if rng.random() >= POLITE_SHARE:
            return question
        if rng.random() < 0.5:
            return f"{rng.choice(self.openers[language])} {question}"
        return f"{question} {rng.choice(self.closers[language])}"


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def read_yaml(name: str) -> Any:
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


def make_data(out: Path) -> None:
    """Write the five files into the folder `out`."""
    general = read_yaml("general.yaml")
    writer = Writer(read_yaml("facts.yaml"))
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "train.jsonl", writer.training_rows(general["train"]))
    for half, questions in read_yaml("held_out.yaml").items():
        write_jsonl(out / f"{half}.jsonl", writer.held_out_rows(half, questions))
    write_jsonl(
        out / "forgetting.jsonl",
        ({"messages": [{"role": "user", "content": question}]} for question in general["forgetting"]),
    )
    sample = {"messages": [writer.system, {"role": "user", "content": general["sample"]}]}
    (out / "sample.json").write_text(json.dumps(sample, indent=2) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the conversations of the kopitiam example.")
    parser.add_argument(
        "--out", type=Path, default=HERE / "data", help="folder to write (default: data/ beside this file)"
    )
    make_data(parser.parse_args().out)


if __name__ == "__main__":
    main()
