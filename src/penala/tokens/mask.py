"""The proof of the loss mask, before the first step of training."""

from collections.abc import Iterator

from penala.errors import TokensError
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.labels import NO_LOSS, TrainingTokens


def prove(tokenizer: ChatTokenizer, tokens: TrainingTokens) -> None:
    """Prove the mask of one row. Raises TokensError that names the row and the token.

    At least one token is supervised. Each run of supervised tokens is one assistant turn: it begins where the model
    writes, ends with an end-of-turn token and holds no other. No token of another message is supervised.
    """
    if len(tokens.labels) != len(tokens.ids):
        raise TokensError(f"{len(tokens.ids)} ids have {len(tokens.labels)} labels", where=tokens.where)
    for n, (id_, label) in enumerate(zip(tokens.ids, tokens.labels, strict=True)):
        if label not in (NO_LOSS, id_):
            raise _violation(tokenizer, tokens, n, f"is trained as another token, {label}")
    runs = list(_runs(tokenizer, tokens))
    if not runs:
        fix = "a row needs an assistant message whose weight is not 0"
        raise TokensError("no token is supervised", where=tokens.where, fix=fix)
    if len(runs) != len(tokens.turns):
        what = f"{len(tokens.turns)} assistant turns have {len(runs)} runs of supervised tokens"
        raise TokensError(what, where=tokens.where)
    starts, ends = tokens.encoded.starts, tokens.encoded.ends
    for (first, last), turn in zip(runs, tokens.turns, strict=True):
        if turn.prompt_end is not None and starts[first] < turn.prompt_end:
            raise _violation(tokenizer, tokens, first, "is supervised and belongs to the prompt")
        if tokens.ids[last] not in tokenizer.end_ids:
            what = f"is the last one supervised in messages[{turn.message}] and ends no turn"
            raise _violation(tokenizer, tokens, last, what)
        for n in range(first, last + 1):
            if any(starts[n] < end and ends[n] > start for start, end in tokens.others):
                raise _violation(tokenizer, tokens, n, "is supervised and belongs to another message")


def _runs(tokenizer: ChatTokenizer, tokens: TrainingTokens) -> Iterator[tuple[int, int]]:
    """Yield the first and the last token of each run of supervised tokens; a token that ends a turn ends its run."""
    first: int | None = None
    for n, label in enumerate(tokens.labels):
        if label == NO_LOSS:
            if first is not None:
                yield first, n - 1
            first = None
            continue
        first = n if first is None else first
        if label in tokenizer.end_ids:
            yield first, n
            first = None
    if first is not None:
        yield first, len(tokens.labels) - 1


def _violation(tokenizer: ChatTokenizer, tokens: TrainingTokens, n: int, what: str) -> TokensError:
    return TokensError(f"token {n} ({tokenizer.token(tokens.ids[n])!r}, {tokens.ids[n]}) {what}", where=tokens.where)
