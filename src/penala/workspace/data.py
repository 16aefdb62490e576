"""What `penala data` asks of the stages."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import DataError, UsageError

if TYPE_CHECKING:
    from penala.conversations.check import Check, Judged
    from penala.conversations.conversation import Conversation
    from penala.conversations.show import Line

Progress = Callable[[int, float], None]


def check_data(
    paths: list[str],
    schema: str,
    columns: Mapping[str, str],
    out: Path | None = None,
    progress: Progress = lambda rows, share: None,
) -> "Check":
    """Check every conversation of `paths`, keeping none; write every finding to `out`.

    `progress` is told now and then how many rows are read, and the share of the bytes.
    """
    from penala.conversations.check import check

    if out is not None:
        _require_writable(out, paths)
    checked = check(paths, schema=schema, columns=columns, progress=progress)
    if out is not None:
        checked.write_json(out)
    return checked


def row_tokens(
    path: Path,
    row: int,
    model: str,
    workspace: str | Path | None,
    *,
    schema: str = "auto",
    columns: Mapping[str, str] | None = None,
    page: Path | None = None,
) -> list[dict[str, Any]]:
    """Return {"id", "text", "supervised"} of each token of the training row that record `row` (from 1) becomes.

    `model` is what a recipe's base_model takes; it is looked up in `workspace`, and its weights are fetched into that
    one's cache when they are not there. `page` is a file for the tokens as HTML.
    """
    from penala.conversations.show import rows_from
    from penala.tokens.chat_tokenizer import ChatTokenizer
    from penala.tokens.page import tokens_page
    from penala.tokens.view import token_view

    if page is not None:
        _require_writable(page, [path])
    judged = rows_from(path, row, 1, schema=schema, columns=columns)[0]
    if judged.conversation is None:
        again = f"penala data show {shlex.quote(str(path))} --row {row}{reading_options(schema, columns or {})}"
        fix = f"`{again}` says what is wrong with it"
        raise DataError(f"record {row} is no good conversation", where=str(path), fix=fix)
    tokenizer = ChatTokenizer.from_folder(_model_folder(model, workspace))
    view = token_view(tokenizer, judged.conversation)
    if page is not None:
        title = f"{judged.file}:{judged.line}, row {judged.row}, as {model} reads it"
        _write_page(page, tokens_page(tokenizer, view, title))
    return view


def report_data(
    paths: list[str],
    schema: str,
    columns: Mapping[str, str],
    *,
    model: str | None,
    workspace: str | Path | None,
    max_seq_length: int | None = None,
    epochs: int = 1,
    page: Path | None = None,
    progress: Progress = lambda rows, share: None,
) -> dict[str, Any]:
    """Return the figures of every row of `paths`, in tokens of `model` when there is one; write them to `page` as HTML.

    No row is kept. `progress` is told what `check_data` tells it.
    """
    from penala.conversations.check import Judged, check
    from penala.conversations.files import find_files
    from penala.conversations.report import Collector
    from penala.conversations.report_page import report_page
    from penala.tokens.measure import Meter

    for path in paths:  # a path that is not there costs no model
        find_files(path)
    if page is not None:
        _require_writable(page, paths)
    meter = Meter(_model_folder(model, workspace), model, max_seq_length) if model is not None else None
    collector = Collector()

    def take(judged: Judged) -> None:
        collector.take(judged)
        if meter is not None and judged.conversation is not None:
            meter.take(judged.conversation)

    checked = check(paths, schema=schema, columns=columns, each=take, progress=progress)
    again = reading_options(schema, columns)
    figures = collector.figures(checked, meter.figures(checked) if meter is not None else None, epochs, again)
    if page is not None:
        _write_page(page, report_page(figures))
    return figures


def report_text(figures: Mapping[str, Any]) -> str:
    """Return what `report_data` gave as text that no terminal trips over."""
    from penala.conversations.report_text import text

    return text(figures)


def show_rows(
    path: Path, row: int, limit: int, *, schema: str = "auto", columns: Mapping[str, str] | None = None
) -> "list[Judged]":
    """Return up to `limit` rows, good and bad, from record `row` (from 1) on."""
    from penala.conversations.show import rows_from

    return rows_from(path, row, limit, schema=schema, columns=columns)


def row_lines(judged: "Judged") -> "Iterable[Line]":
    """Return the lines that show one row, each with what it is; no terminal trips over them."""
    from penala.conversations.show import lines_of

    return lines_of(judged)


def row_json(conversation: "Conversation") -> str:
    """Return a row in canonical form, as one line of JSON."""
    from penala.conversations.conversation import json_line

    return json_line(conversation.as_dict())


def visible(text: str) -> str:
    """Return a text with the characters spelled out that a terminal would obey."""
    from penala.conversations.visible import visible

    return visible(text)


def download_set(
    repo: str,
    out: Path,
    *,
    percent: float = 100.0,
    splits: tuple[str, ...] = (),
    config: str | None = None,
    revision: str | None = None,
    force: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Write the first rows of each split of a hub set to OUT/SPLIT.jsonl; return what was done.

    `report` is told progress and notes.
    """
    from dataclasses import asdict

    from penala.conversations.hub import open_set
    from penala.conversations.hub_download import check_percent, download

    check_percent(percent)
    hub_set = open_set(repo, revision=revision, config=config)
    for note in hub_set.notes:
        report({"event": "note", "text": note})
    done = download(hub_set, out, percent=percent, splits=splits, force=force, report=report)
    about = {"repo": repo, "revision": hub_set.revision, "config": hub_set.config, "percent": percent}
    return about | {"splits": {name: asdict(got) for name, got in done.items()}}


def _model_folder(model: str, workspace: str | Path | None) -> Path:
    from penala.basemodel.sources import obtain
    from penala.workspace.base_models import resolve
    from penala.workspace.client import locate
    from penala.workspace.models import existing

    with existing(workspace) as opened:
        entry = resolve(opened, model)
    return obtain(entry, locate(workspace) / "cache", lambda event: None)


def reading_options(schema: str, columns: Mapping[str, str]) -> str:
    """Return the options that read a file the same way again."""
    words = [] if schema == "auto" else ["--schema", schema]
    for ours, theirs in columns.items():
        words += ["--column", f"{ours}={theirs}"]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _require_writable(path: Path, data: Sequence[str | Path]) -> None:
    """Raise UsageError now for a file that could not be written later, or is one of the data; leave nothing behind."""
    from penala.conversations.files import find_files, require_apart

    require_apart(path, [file for place in data for file in find_files(place).files])
    is_new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        fix = "name a file in a folder that exists and that you may write to"
        raise UsageError(f"cannot be written: {error.strerror}", where=str(path), fix=fix) from None
    if is_new:
        path.unlink()


def _write_page(path: Path, html: str) -> None:
    path.write_bytes(html.encode("utf-8", "backslashreplace"))  # a file's name may be of another encoding
