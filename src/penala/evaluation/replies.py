"""Ask a model and read its replies, through the engine that also serves it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penala.evaluation.questions import Question
from penala.tokens.chat_tokenizer import ChatTokenizer

Report = Callable[[dict[str, Any]], None]

ROWS = 32  # written at once: nobody waits for a first token here


def ask(model: Path, questions: Sequence[Question], max_new_tokens: int, report: Report) -> list[str | None]:
    """Return the model's likeliest reply to each question; None where the prompt fills the model's whole context."""
    if not questions:
        return []
    from penala.engines.engine import Generation
    from penala.engines.transformers_engine import open_engine

    tokenizer = ChatTokenizer.from_folder(model)
    engine = open_engine(model, max_rows=ROWS)
    prompts = [tuple(tokenizer.prompt(question.messages, tools=question.tools)) for question in questions]
    asked = [index for index, prompt in enumerate(prompts) if len(prompt) < engine.max_length]
    requests = [Generation(prompts[index], max_new_tokens, tokenizer.end_ids) for index in asked]
    written = [0] * len(requests)
    done = 0

    def count(request: int, token: int) -> None:
        nonlocal done
        written[request] += 1
        if token in tokenizer.end_ids or written[request] == max_new_tokens:
            done += 1
            report({"event": "progress", "done": done, "total": len(requests), "unit": "replies"})

    replies: list[str | None] = [None] * len(questions)
    for index, completion in zip(asked, engine.generate(requests, count), strict=True):
        replies[index] = tokenizer.parse_reply(completion.ids).content
    return replies
