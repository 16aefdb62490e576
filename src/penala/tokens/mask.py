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
    runs = list(_runs(tokenizer, tokens))
    for first, last in runs:
        if tokens.labels[first : last + 1] != tokens.ids[first : last + 1]:
            n = next(n for n in range(first, last + 1) if tokens.labels[n] != tokens.ids[n])
            raise _violation(tokenizer, tokens, n, f"is trained as another token, {tokens.labels[n]}")
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
        begin, finish = min(starts[first : last + 1]), max(ends[first : last + 1])
        for start, end in tokens.others:
            if begin < end and finish > start:  # else no token of the run lies there
                for n in range(first, last + 1):
                    if starts[n] < end and ends[n] > start:
                        raise _violation(tokenizer, tokens, n, "is supervised and belongs to another message")


def _runs(tokenizer: ChatTokenizer, tokens: TrainingTokens) -> Iterator[tuple[int, int]]:
    """Yield the first and the last token of each run of supervised tokens; a token that ends a turn ends its run."""
    is_supervised = bytes(map(NO_LOSS.__ne__, tokens.labels))
    first = is_supervised.find(1)
    while first >= 0:
        stop = is_supervised.find(0, first)
        stop = len(is_supervised) if stop < 0 else stop
        ends = (_find(tokens.labels, end, first, stop) for end in tokenizer.end_ids)
        last = min(ends, default=stop - 1)
        yield first, last
        first = is_supervised.find(1, last + 1)


def _find(labels: list[int], end: int, first: int, stop: int) -> int:
    """Return where a token first stands in labels[first:stop], or else the last place there."""
    try:
        return labels.index(end, first, stop)
    except ValueError:
        return stop - 1


def _violation(tokenizer: ChatTokenizer, tokens: TrainingTokens, n: int, what: str) -> TokensError:
    return TokensError(f"token {n} ({tokenizer.token(tokens.ids[n])!r}, {tokens.ids[n]}) {what}", where=tokens.where)
