"""The proof of the loss mask, before the first step of training."""

from bisect import bisect_left

import numpy as np

from penala.errors import TokensError
from penala.tokens.byte_lengths import Numbers
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.labels import Mask, TrainingTokens


def prove(tokenizer: ChatTokenizer, tokens: TrainingTokens) -> None:
    """Prove the mask of one row. Raises TokensError that names the row and the token.

    At least one token is supervised. Each run of supervised tokens is one assistant turn: it begins where the model
    writes, with its first word, ends with the turn's end-of-turn token and holds no other. No token of another message
    is supervised.
    """
    if len(tokens.labels) != len(tokens.ids):
        raise TokensError(f"{len(tokens.ids)} ids have {len(tokens.labels)} labels", where=tokens.where)
    labels, is_supervised = np.asarray(tokens.labels, np.int32), tokens.is_supervised
    if (wrong := (labels != tokens.encoded.numbers) & is_supervised).any():
        n = int(wrong.argmax())
        raise _violation(tokenizer, tokens, n, f"is trained as another token, {tokens.labels[n]}")
    runs = _runs(tokenizer, labels, is_supervised)
    if not runs:
        fix = "a row needs an assistant message whose weight is not 0"
        raise TokensError("no token is supervised", where=tokens.where, fix=fix)
    if len(runs) != len(tokens.turns):
        _refuse_ends_within(tokenizer, tokens)
        what = f"{len(tokens.turns)} assistant turns have {len(runs)} runs of supervised tokens"
        raise TokensError(what, where=tokens.where)
    starts, ends = tokens.encoded.starts, tokens.encoded.ends
    for (first, last), turn in zip(runs, tokens.turns, strict=True):
        if turn.prompt_end is not None and starts[first] < turn.prompt_end:
            raise _violation(tokenizer, tokens, first, "is supervised and belongs to the prompt")
        if tokens.text[starts[first] : turn.start].strip():
            raise _violation(tokenizer, tokens, first, "is supervised and holds a word of the chat template")
        if missed := tokens.text[turn.start : starts[first]].strip():
            what = f"is the first one supervised in messages[{turn.message}] and comes behind {missed[:80]!r}"
            raise _violation(tokenizer, tokens, first, what)
        if tokens.ids[last] not in tokenizer.end_ids or not starts[last] <= turn.end_token < ends[last]:
            what = f"is the last one supervised in messages[{turn.message}] and ends no turn"
            raise _violation(tokenizer, tokens, last, what)
        begin = np.minimum.reduce(np.asarray(starts[first : last + 1]))
        finish = np.maximum.reduce(np.asarray(ends[first : last + 1]))
        for start, end in tokens.others:
            if begin < end and finish > start:  # else no token of the run lies there
                for n in range(first, last + 1):
                    if starts[n] < end and ends[n] > start:
                        raise _violation(tokenizer, tokens, n, "is supervised and belongs to another message")


def _refuse_ends_within(tokenizer: ChatTokenizer, tokens: TrainingTokens) -> None:
    """Name a token that ends replies and stands inside one, such as the end of gpt-oss's reasoning."""
    for turn in tokens.turns:
        for n in range(bisect_left(tokens.encoded.starts, turn.start), len(tokens.ids)):
            if tokens.encoded.starts[n] >= turn.end_token:
                break
            if tokens.labels[n] in tokenizer.end_ids:
                what = f"stands inside messages[{turn.message}] and ends replies, so a server would stop there"
                raise _violation(tokenizer, tokens, n, what)


def _runs(tokenizer: ChatTokenizer, labels: Numbers, is_supervised: Mask) -> list[tuple[int, int]]:
    """Return the first and the last token of each run of supervised tokens; a token that ends a turn ends its run."""
    goes_on = is_supervised[:-1] & is_supervised[1:]  # from a token to the next
    for end in tokenizer.end_ids:
        goes_on &= labels[:-1] != end
    border = np.ones(1, bool)
    (firsts,) = (is_supervised & np.concatenate((border, ~goes_on))).nonzero()
    (lasts,) = (is_supervised & np.concatenate((~goes_on, border))).nonzero()
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _violation(tokenizer: ChatTokenizer, tokens: TrainingTokens, n: int, what: str) -> TokensError:
    return TokensError(f"token {n} ({tokenizer.token(tokens.ids[n])!r}, {tokens.ids[n]}) {what}", where=tokens.where)
