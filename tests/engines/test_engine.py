import pytest

from penala.engines.engine import Engine, Generation, NewToken

END = frozenset({0})


class CountingEngine(Engine):
    """Writes 5, 4, 3, 2, 1, 0 and so on down from the prompt's last token, one request after the other."""

    max_length = 100

    def __init__(self):
        self.queue = []
        self.added = 0

    def add(self, request):
        self.added += 1
        self.queue.append([self.added, request.prompt[-1]])
        return self.added

    def step(self):
        if not self.queue:
            return []
        self.queue[0][1] -= 1
        number, token = self.queue[0]
        if token == 0:
            self.queue.pop(0)
        return [NewToken(number, token, "stop" if token == 0 else None)]

    def cancel(self, request):
        self.queue = [entry for entry in self.queue if entry[0] != request]

    def reset(self):
        self.queue = []


def ask(*prompt):
    return Generation(prompt, max_new_tokens=50, end_ids=END)


def test_replies_come_in_the_order_of_the_requests():
    """The longest prompt is read first, and still each reply stands where its request stood."""
    replies = CountingEngine().generate([ask(3), ask(9, 9, 2), ask(9, 4)])

    assert [reply.ids for reply in replies] == [(2, 1, 0), (1, 0), (3, 2, 1, 0)]
    assert {reply.finish_reason for reply in replies} == {"stop"}


def test_a_callback_that_returns_false_ends_its_own_reply_only():
    """The cancelled reply keeps what was written; the other one is whole."""
    seen = []

    def on_token(index, token):
        seen.append((index, token))
        return not (index == 0 and token == 2)

    first, second = CountingEngine().generate([ask(4), ask(2)], on_token)

    assert (first.ids, first.finish_reason) == ((3, 2), "cancelled")
    assert (second.ids, second.finish_reason) == ((1, 0), "stop")
    assert seen == [(0, 3), (0, 2), (1, 1), (1, 0)]


def test_an_interrupted_generate_leaves_the_engine_empty():
    """What was asked for before an exception in the callback is not written afterwards."""
    engine = CountingEngine()

    def on_token(index, token):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate([ask(4), ask(5)], on_token)

    assert [reply.ids for reply in engine.generate([ask(2)])] == [(1, 0)]


@pytest.mark.parametrize(
    "change",
    [{"prompt": ()}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": -0.5}, {"top_p": 1.5}],
    ids=lambda change: next(iter(change)),
)
def test_a_request_that_means_nothing_is_refused(change):
    """An empty prompt, no tokens, a negative temperature and an empty or overfull nucleus raise ValueError."""
    with pytest.raises(ValueError, match="not a reply that can be written"):
        Generation(**{"prompt": (1,), "max_new_tokens": 1, "end_ids": END} | change)
