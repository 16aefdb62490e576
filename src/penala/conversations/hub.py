"""A data set of the Hugging Face hub: what it holds, and the bytes of its files by range request.

huggingface_hub does the talking: it reads HF_ENDPOINT, HF_TOKEN or the stored token, HF_HUB_OFFLINE and proxies.
"""

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from threading import Lock
from typing import Any

from penala.conversations.hub_splits import Card, Layout, RemoteFile, Split, lay_out, read_card
from penala.conversations.visible import visible
from penala.errors import DataError, UsageError, near

CARD = "README.md"
CARD_BYTES = 1 << 20  # its head stands at its beginning
WAITS_S = (1.0, 2.0, 4.0, 8.0)  # between tries that bring nothing; one that brought bytes is followed at once
QUIET_S = 2.0  # what is shorter needs no progress
REPORT_EVERY_S = 0.5
WORTH_A_RETRY = {408, 429, 500, 502, 503, 504}


Report = Callable[[dict[str, Any]], None]


class Unreachable(DataError):
    """A hub that does not answer now; what was fetched before can still be used."""


@dataclass(frozen=True, slots=True)
class HubSet:
    """One configuration of a data set at one commit; `asked` is the revision by the name it was asked for."""

    repo: str
    revision: str
    asked: str
    config: str
    splits: dict[str, Split]
    endpoint: str
    notes: list[str] = field(default_factory=list)

    def chosen(self, names: tuple[str, ...]) -> dict[str, Split]:
        """Return the splits of these names, or all when there is no name; raise UsageError for an unknown one."""
        for name in names:
            if name not in self.splits:
                fix = near(name, self.splits) or f"there are {', '.join(self.splits)}"
                raise UsageError(f"has no split '{name}'", where=self.repo, fix=fix)
        return {name: self.splits[name] for name in dict.fromkeys(names or self.splits)}

    def open(self, file: RemoteFile, moved: Callable[[int], None]) -> "HubStream":
        """Return a file as a seekable stream; the size of everything that comes is told to `moved`."""
        url = _url(self.repo, file.path, self.revision, self.endpoint)
        return HubStream(url, file, self.repo, self.endpoint, moved)


def open_set(
    repo: str, *, revision: str | None = None, config: str | None = None, endpoint: str | None = None
) -> HubSet:
    """Ask the hub what `repo` holds: its commit, and which files make which split.

    Raises UsageError for a name, revision or configuration that is not there, Unreachable when the hub does not answer,
    DataError when it refuses.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.hf_api import RepoFile

    home = endpoint or constants.ENDPOINT
    api = HfApi(endpoint=home)
    with explained(repo, home):
        try:
            commit = api.dataset_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
            tree = api.list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")
            files = [RemoteFile(entry.path, entry.size) for entry in tree if isinstance(entry, RepoFile)]
        except HFValidationError:
            raise
        except (ValueError, KeyError, TypeError):  # a page to log in on, a mistyped address
            raise Unreachable(f"{home} does not answer as a hub", where=repo, fix="check HF_ENDPOINT") from None
    layout = _layout(repo, commit, files, home)
    if not layout.configs and not layout.refused:
        fix = "try --revision refs/convert/parquet, where the hub keeps what it could convert"
        raise DataError("holds no data file that we read", where=repo, fix=fix)
    name = _pick(layout, config, repo)
    notes = layout.notes
    if len(layout.configs) > 1 and config is None:
        known = visible(", ".join(layout.configs))
        notes = [*notes, f"configuration {visible(name)}, the default of {known}; --config takes another"]
    return HubSet(repo, commit, revision or "main", name, layout.configs[name], home, notes)


def _layout(repo: str, commit: str, files: list[RemoteFile], endpoint: str) -> Layout:
    card = Card()
    if readme := next((file for file in files if file.path == CARD), None):
        stream = HubStream(_url(repo, CARD, commit, endpoint), readme, repo, endpoint, lambda count: None)
        text = stream.read(min(readme.size, CARD_BYTES))
        try:
            card = read_card(text)
        except DataError as error:
            raise _broken_card(repo, error.what) from None
    return lay_out(files, card)


def _broken_card(repo: str, what: str) -> DataError:
    return DataError(what, where=f"{repo}/{CARD}", fix="tell its authors; another --revision may be in order")


def _url(repo: str, path: str, commit: str, endpoint: str) -> str:
    from huggingface_hub import hf_hub_url

    return str(hf_hub_url(repo, path, repo_type="dataset", revision=commit, endpoint=endpoint))


def _pick(layout: Layout, asked: str | None, repo: str) -> str:
    """Return the configuration that was asked for, else the default one."""
    names = [*layout.configs, *layout.refused]
    known = visible(", ".join(names))
    if asked is not None and asked not in names:
        fix = visible(near(asked, names)) or f"it has {known}"
        raise UsageError(f"has no configuration '{asked}'", where=repo, fix=fix)
    if (name := asked or layout.default) is None:
        what = f"has {len(names)} configurations: {known}"
        raise UsageError(what, where=repo, fix="choose one with --config NAME")
    if name in layout.refused:
        raise _broken_card(repo, layout.refused[name])
    return name


class Meter:
    """Counts the bytes that come and reports them, at most twice a second, once it has taken two seconds."""

    def __init__(self, report: Report, total: int) -> None:
        self.bytes = 0
        self._report = report
        self._total = total
        self._lock = Lock()  # several threads read footers
        self._started = self._said = time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes."""
        with self._lock:
            self.bytes += count
            now = time.monotonic()
            if now - self._started < QUIET_S or now - self._said < REPORT_EVERY_S:
                return
            self._said = now
            total = max(self._total, self.bytes)
            left = (total - self.bytes) * (now - self._started) / self.bytes
        event = {"event": "progress", "done": _mega(self.bytes), "total": _mega(total), "unit": "MB", "eta_s": left}
        self._report(event)


def _mega(count: int) -> float:
    return round(count / 1e6, 1)


class HubStream(io.RawIOBase):
    """A file of the hub, seekable. Each read is one range request, which goes on where a cut connection left it."""

    def __init__(self, url: str, file: RemoteFile, repo: str, endpoint: str, moved: Callable[[int], None]) -> None:
        self._url = url
        self._size = file.size
        self._where = visible(f"{repo}/{file.path}")
        self._repo = repo
        self._endpoint = endpoint
        self._moved = moved
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readall(self) -> bytes:
        return self.read(self._size - self._at) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill as much of `buffer` as the file still has; raise DataError when nothing comes any more."""
        view = memoryview(buffer).cast("B")
        view = view[: max(self._size - self._at, 0)]
        got, fruitless = 0, 0
        while got < len(view):
            before = got
            cause: Exception | None = None
            try:
                for block in self._blocks(self._at + got, self._at + len(view)):
                    view[got : got + len(block)] = block
                    got += len(block)
            except _Cut as cut:
                cause = cut
            fruitless = 0 if got > before else fruitless + 1
            if fruitless > len(WAITS_S):
                what = f"the connection to {self._endpoint} was lost {fruitless} times: {cause or 'nothing came'}"
                raise Unreachable(what, where=self._where, fix="the same command goes on where this one stopped")
            if fruitless:
                time.sleep(WAITS_S[fruitless - 1])
        self._at += got
        return got

    def _blocks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end` of one request; raise _Cut for what another try may mend."""
        from huggingface_hub import constants, get_session
        from huggingface_hub.errors import HTTPError
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        # packed content would be counted, cut and continued in the wrong unit
        headers = build_hf_headers() | {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with explained(self._repo, self._endpoint):
            try:
                timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
                with get_session().stream("GET", self._url, headers=headers, timeout=timeout) as response:
                    hf_raise_for_status(response)
                    skip, left = (0 if response.status_code == 206 else start), end - start
                    self._check_size(response, start)
                    for block in response.iter_raw():
                        self._moved(len(block))
                        wanted = block[skip:][:left]
                        skip, left = max(skip - len(block), 0), left - len(wanted)
                        yield wanted
                        if left == 0:
                            return
            except HTTPError as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status is None or status in WORTH_A_RETRY:
                    raise _Cut(_first_line(error)) from None
                raise

    def _check_size(self, response: Any, start: int) -> None:
        fix = "try again; if it stays so, tell who runs the hub or the mirror"
        total = response.headers.get("Content-Length", "")
        if response.status_code == 206:
            given = response.headers.get("Content-Range", "")
            first, _, total = re.sub("bytes ([0-9]+)-[0-9]+", r"\1", given).partition("/")
            if first != str(start):
                what = f"the hub sends '{visible(given)}' when it is asked for what begins at byte {start}"
                raise DataError(what, where=self._where, fix=fix)
        if total.isdecimal() and int(total) != self._size:
            raise DataError(f"the hub lists {self._size} bytes and sends {total}", where=self._where, fix=fix)


class _Cut(Exception):
    """A request that ended too early."""


@contextmanager
def explained(repo: str, endpoint: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that say how to go on."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # of httpx or httpx2, as the version of huggingface_hub has it; no HTTPError
    invalid_url: type[Exception] = import_module(HTTPError.__module__).InvalidURL
    try:
        yield
    except HFValidationError:
        raise UsageError("is no name of a data set", where=repo, fix="write OWNER/NAME, as on the hub") from None
    except OfflineModeIsEnabled:
        fix = "unset HF_HUB_OFFLINE, or use files that are here already"
        raise Unreachable("HF_HUB_OFFLINE keeps the hub away", where=repo, fix=fix) from None
    except GatedRepoError:
        page = f"{endpoint}/datasets/{repo}"
        fix = f"accept them on {page}, then set HF_TOKEN (or run `hf auth login`)"
        raise DataError("wants its terms accepted first", where=repo, fix=fix) from None
    except RepositoryNotFoundError:
        fix = "check the spelling (OWNER/NAME); for a private one set HF_TOKEN or run `hf auth login`"
        raise UsageError(f"{endpoint} has no such data set, or it is private", where=repo, fix=fix) from None
    except RevisionNotFoundError:
        raise UsageError("has no such revision", where=repo, fix="name a branch, a tag or a commit of it") from None
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            fix = "set HF_TOKEN to a token that may read it; `hf auth whoami` says whose token is used"
            raise DataError(f"{endpoint} refuses: {_first_line(error)}", where=repo, fix=fix) from None
        is_gone = error.response.status_code in (404, 410)  # of a mirror that says no more
        fix = "check the name, and HF_ENDPOINT" if is_gone else "try again later, or set HF_ENDPOINT to a mirror"
        raise Unreachable(f"{endpoint} answers: {_first_line(error)}", where=repo, fix=fix) from None
    except (HTTPError, invalid_url) as error:
        fix = f"make {endpoint} reachable, or set HF_ENDPOINT to a mirror"
        raise Unreachable(f"{endpoint} cannot be reached: {_first_line(error)}", where=repo, fix=fix) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return visible(lines[0]) if lines else type(error).__name__
