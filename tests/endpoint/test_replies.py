import pytest

from penala.endpoint.replies import ReplyText

TEXT = "kopi 咖啡 ☕, satu!"


def read(ids, **options):
    """Give the bytes of a text to a ReplyText one by one; return its pieces and itself."""

    def parse(ids):
        return bytes(ids).decode(errors="replace")

    reply = ReplyText(parse, **options)
    pieces = []
    for id_ in ids:
        pieces.append(reply.add(id_))
        if reply.stopped:
            break
    pieces.append(reply.finish())
    return [piece for piece in pieces if piece], reply


def test_the_pieces_are_the_text():
    """Joined they are the reply, and no piece holds half a character."""
    pieces, reply = read(TEXT.encode())

    assert "".join(pieces) == reply.text == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_very_end_is_shown_as_what_it_is():
    """A reply that was cut within a character ends with the replacement character."""
    pieces, _ = read("kopi ☕".encode()[:-1])

    assert "".join(pieces) == "kopi \ufffd"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("satu",), "kopi 咖啡 ☕, "),
        (("satu", "☕"), "kopi 咖啡 "),
        (("!",), "kopi 咖啡 ☕, satu"),
        (("k",), ""),
        (("teh", "satua"), TEXT),
    ],
)
def test_a_stop_text_ends_the_reply_before_it(stop, text):
    """The earliest one counts, and nothing of it is given out; one that never comes changes nothing."""
    pieces, reply = read(TEXT.encode(), stop=stop)

    assert "".join(pieces) == reply.text == text
    assert reply.stopped is (text != TEXT)


def test_what_may_become_a_stop_text_is_held_back():
    """ "sat" could still become "satu", and is given out once it cannot."""
    pieces, _ = read(b"x sat x", stop=("satu",))

    assert pieces == ["x", " ", "sat ", "x"]


def test_a_thought_that_the_parser_takes_out_never_shows():
    """Nothing is given out before </think>, and the answer whole."""

    def parse(ids):
        text = bytes(ids).decode()
        return text.partition("</think>")[2] if "</think>" in text else text

    reply = ReplyText(parse)
    pieces = [reply.add(id_) for id_ in b"<think>hm</think>ok"] + [reply.finish()]

    assert [piece for piece in pieces if piece] == ["o", "k"]
