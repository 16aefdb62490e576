"""Bring the first rows of a hub set's splits here as JSON lines, and go on where an earlier start was cut off.

Beside DIR/SPLIT.jsonl lie DIR/.SPLIT.jsonl.part while it grows, and DIR/.SPLIT.jsonl.download.json, which says what was
asked for, how far it is, and whether it is complete.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from penala.conversations.hub import HubSet, Meter, Report
from penala.conversations.hub_rows import (
    Piece,
    Place,
    footers,
    how_to_read,
    line_pieces,
    parquet_pieces,
    whole_pieces,
)
from penala.conversations.hub_splits import RemoteFile, Split, is_packed, kind_of
from penala.conversations.visible import visible
from penala.errors import DataError, UsageError

SAVE_EVERY_S = 1.0
FAR = 2  # rows differ in length
SMALL_BYTES = 256 << 10  # lines of so little are read to their end, which tells how many there are


@dataclass(slots=True)
class Got:
    """What became of one split: `of` is how many rows it has on the hub, None where nobody says."""

    file: str
    rows: int
    of: int | None
    bytes_moved: int
    reused: bool = False


def download(
    hub_set: HubSet,
    out: Path,
    *,
    percent: float = 100.0,
    splits: tuple[str, ...] = (),
    force: bool = False,
    is_ours: bool = False,
    report: Report = lambda event: None,
) -> dict[str, Got]:
    """Write the first round(rows x percent / 100) rows of each split to OUT/SPLIT.jsonl; return what became of each.

    A split that is complete is not fetched again, one that was cut off goes on. Raises UsageError for a wrong split or
    percent and for a file in the way (unless `force`, or OUT `is_ours`), DataError for what the hub refuses or breaks.
    """
    check_percent(percent)
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", where=str(out), fix="name a folder for the splits")
    fetches = [_Fetch(hub_set, name, split, percent, out) for name, split in hub_set.chosen(splits).items()]
    done = {fetch.name: None if force else fetch.finished() for fetch in fetches}
    todo = [fetch for fetch in fetches if done[fetch.name] is None]
    for fetch in todo:
        if not force and not is_ours:
            fetch.refuse_to_overwrite()
    meter = Meter(report, sum(fetch.bytes_left for fetch in todo))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for fetch in todo:
            done[fetch.name] = fetch.run(meter, report)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", where=str(error.filename or out)) from None
    return {name: got for name, got in done.items() if got is not None}


def check_percent(percent: float) -> None:
    """Raise UsageError for a percent that is no share of a set."""
    if not 0 < percent <= 100:  # false for NaN, too
        raise UsageError(f"{percent:g} is no share", where="--percent", fix="use a number above 0 and up to 100")


def copies(folder: Path, split: str) -> list[tuple[dict[str, Any], Path]]:
    """Return (what it is of, file) of each complete copy of a split in the folders of `folder`, the newest first."""
    found = []
    for record in folder.glob(f"*/.{split}.jsonl.download.json"):
        state, file = _read_state(record), record.with_name(f"{split}.jsonl")
        if state is not None and state.complete and _size(file) == state.size:
            found.append((state.source | {"asked": state.asked}, file))
    return sorted(found, key=lambda one: one[1].stat().st_mtime, reverse=True)


@dataclass(slots=True)
class _State:
    """How far a download is: all before `place` is in the first `size` bytes of the part file."""

    source: dict[str, Any]
    asked: str
    place: Place = field(default_factory=Place)
    rows: int = 0
    size: int = 0
    moved: int = 0
    of: int | None = None
    complete: bool = False


@dataclass(slots=True)
class _Fetch:
    """One split on its way into one file."""

    hub_set: HubSet
    name: str
    split: Split
    percent: float
    out: Path
    source: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        files = [[file.path, file.size] for file in self.split.files]
        where = {"repo": self.hub_set.repo, "revision": self.hub_set.revision, "config": self.hub_set.config}
        self.source = where | {"split": self.name, "percent": self.percent, "files": files}

    @property
    def target(self) -> Path:
        return self.out / f"{self.name}.jsonl"

    @property
    def part(self) -> Path:
        return self.out / f".{self.name}.jsonl.part"

    @property
    def record(self) -> Path:
        return self.out / f".{self.name}.jsonl.download.json"

    @property
    def bytes_wanted(self) -> int:
        return round(self.split.size * self.percent / 100)

    @property
    def bytes_left(self) -> int:
        state = self.saved()
        goes_on = state is not None and state.source == self.source and not state.complete
        return self.bytes_wanted - (state.moved if state is not None and goes_on else 0)

    # --- what is there already

    def saved(self) -> _State | None:
        """Return the state that an earlier start left, whatever it was about."""
        return _read_state(self.record)

    def finished(self) -> Got | None:
        """Return what an earlier start completed, when it is just what is asked for now."""
        state = self.saved()
        if state is None or not state.complete or state.source != self.source:
            return None
        if not self.target.exists() and _size(self.part) == state.size:  # killed just before the last rename
            self.part.rename(self.target)
        if _size(self.target) != state.size:
            return None
        return Got(str(self.target), state.rows, state.of, 0, reused=True)

    def refuse_to_overwrite(self) -> None:
        """Raise UsageError when another file lies where the split goes."""
        if not os.path.lexists(self.target):
            return
        state, what = self.saved(), "is there already"
        if state is not None and _size(self.target) == state.size:
            of = state.source
            what += f": {of['percent']:g} % of {of['repo']} at {of['revision'][:12]}"
        raise UsageError(what, where=str(self.target), fix="--force overwrites it; or choose another --out")

    # --- fetching

    def run(self, meter: Meter, report: Report) -> Got:
        """Fetch the split, from where an earlier start stopped, and put it in its place."""
        with self._locked_part() as part:
            state = self.saved()
            grown = part.seek(0, os.SEEK_END)
            if state is None or state.complete or state.source != self.source or grown < state.size:
                state = _State(self.source, self.hub_set.asked)
                self._clear()
            elif state.rows:
                report({"event": "note", "text": f"{self.name}: going on after {state.rows} rows"})
            part.truncate(state.size)
            self._fill(part, state, meter, report)
            self._save(part, state)
            os.replace(self.part, self.target)
            self._clear()
        return Got(str(self.target), state.rows, state.of, state.moved)

    @contextmanager
    def _locked_part(self) -> Iterator[IO[bytes]]:
        """Open the part file for this process alone; raise UsageError while another has it."""
        while True:
            with self.part.open("ab") as part:
                try:
                    fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UsageError("another process downloads this split", where=str(self.target)) from None
                # a process that ended between the opening and the lock has made this file the target
                if self.part.exists() and os.path.samestat(os.fstat(part.fileno()), self.part.stat()):
                    yield part
                    return

    def _fill(self, part: IO[bytes], state: _State, meter: Meter, report: Report) -> None:
        before, moved = meter.bytes, state.moved
        saved_at, since = time.monotonic(), (0, 0)  # rows and bytes since the last place to go on from

        def tell(text: str) -> None:
            report({"event": "note", "text": visible(f"{self.name}: {text}")})

        try:
            for lines, place in self._pieces(state, meter, tell):
                part.writelines(lines)
                since = since[0] + len(lines), since[1] + sum(map(len, lines))
                if place is None:
                    continue
                state.place, state.rows, state.size = place, state.rows + since[0], state.size + since[1]
                since = (0, 0)
                if time.monotonic() - saved_at >= SAVE_EVERY_S:
                    state.moved = moved + meter.bytes - before
                    self._save(part, state)
                    saved_at = time.monotonic()
            self._settle(part, state, tell)
            state.complete = True
        finally:
            state.moved = moved + meter.bytes - before
            if not state.complete:
                self._save(part, state)

    def _pieces(self, state: _State, meter: Meter, tell: Callable[[str], None]) -> Iterator[Piece]:
        """Return the reader that fits the files; set how many rows there are where that is known before."""

        def open_file(file: RemoteFile) -> Any:
            return self.hub_set.open(file, meter.add)

        files, claimed = self.split.files, self.split.rows
        match how_to_read(files, open_file):
            case "parquet":
                metadata = footers(files, open_file)
                state.of = sum(one.num_rows for one in metadata)
                if claimed is not None and claimed != state.of:
                    tell(f"the card claims {claimed} rows, the files hold {state.of}")
                return parquet_pieces(files, open_file, metadata, state.place, self._share(state.of) - state.rows)
            case "lines":
                rows = None if claimed is None or self.percent == 100 else self._share(claimed) - state.rows
                state.of = claimed
                is_small = rows is None and self.split.size <= SMALL_BYTES
                size = self.split.size if is_small else self.bytes_wanted
                return line_pieces(files, open_file, state.place, rows=rows, size=size)
            case _:
                if self.percent < 100:
                    tell("such files do not say how many rows they hold: they are fetched whole, then cut")
                return whole_pieces(files, open_file, state.place, self._spare, tell)

    def _clear(self) -> None:
        for copy in self.out.glob(f".{self.name}.fetched*"):
            copy.unlink()

    def _spare(self, file: RemoteFile) -> Path:
        suffixes = kind_of(file.path) + (".gz" if is_packed(file.path) else "")
        return self.out / f".{self.name}.fetched{self.split.files.index(file)}{suffixes}"

    def _share(self, rows: int) -> int:
        return round(rows * self.percent / 100)

    def _settle(self, part: IO[bytes], state: _State, tell: Callable[[str], None]) -> None:
        """Cut to the share what had to be read to its end, and see that the rows are as many as they must be."""
        if state.place.file >= len(self.split.files):  # lines, or whole files, read to their end
            if self.split.rows not in (None, state.rows):
                tell(f"the card claims {self.split.rows} rows, the files hold {state.rows}")
            state.of = state.rows
        elif self.split.rows and state.rows and kind_of(self.split.files[0].path) != ".parquet":
            self._doubt(self.split.rows, state.place, tell)
        if state.of is None:
            tell(f"the hub does not say how many rows it has; these lie in the first {self.percent:g} % of its bytes")
        elif (wanted := self._share(state.of)) < state.rows:
            part.flush()
            with self.part.open("rb") as lines:
                state.size = sum(map(len, islice(lines, wanted)))
            state.rows = wanted
            part.truncate(state.size)
        elif wanted > state.rows:
            raise DataError(f"{state.rows} rows came of {wanted}", where=f"{self.hub_set.repo}: split {self.name}")
        if not state.rows:
            tell(f"{self.percent:g} % of it is no row")

    def _doubt(self, claimed: int, place: Place, tell: Callable[[str], None]) -> None:
        """Tell when the share of the claimed rows is far from that share of the bytes, as under a stale claim."""
        read = 100 * (sum(file.size for file in self.split.files[: place.file]) + place.at) / self.split.size
        if not self.percent / FAR < read < self.percent * FAR:
            share = f"{self.percent:g} % of the {claimed} rows that the card claims"
            tell(f"{share} lie in the first {read:.2g} % of the bytes: the claim may be wrong")

    def _save(self, part: IO[bytes], state: _State) -> None:
        part.flush()
        os.fsync(part.fileno())
        new = self.record.with_suffix(".new")
        new.write_text(json.dumps(asdict(state)), encoding="utf-8")
        os.replace(new, self.record)


def _read_state(record: Path) -> _State | None:
    try:
        state = _State(**json.loads(record.read_bytes()))
        state.place = Place(*state.place)
    except (OSError, ValueError, TypeError):
        return None
    return state


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
