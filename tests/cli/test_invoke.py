"""How a question is read."""

import io

import pytest

from penala.cli.invoke import read_document


@pytest.mark.parametrize("tty", [True, False])
def test_a_terminal_is_told_that_it_is_read(capsys, monkeypatch, tty):
    """Without FILE, a person would wait for an answer to nothing; a pipe is not told."""
    file = io.StringIO('[{"role": "user", "content": "Hello!"}]')
    monkeypatch.setattr(file, "isatty", lambda: tty)

    assert read_document(file) == [{"role": "user", "content": "Hello!"}]
    assert ("type a conversation, for example [" in capsys.readouterr().err) is tty
