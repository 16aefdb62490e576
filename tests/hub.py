"""A Hugging Face hub on loopback: one repository, and the routes that the real client asks for."""

import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
KINDS = {"models": "", "datasets": "datasets/"}  # of the API's routes -> before the name in the others


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone; they had what they wanted."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Hub:
    """Serve the files of `folder` as repository `repo`.

    `fetched` lists the files that were asked for in whole, `ranges` the (file, first, last) of partial ones, `moved`
    counts the bytes of files that went out. `token` is asked for when set; `gated` refuses everybody; `cut_after` ends
    every connection after that many bytes of a file; once `dies_after` bytes have gone out in all, none goes any more.
    `listed` gives files other sizes in the listing; with `knows_starts` unset each range begins at the first byte.
    """

    def __init__(self, repo: str, folder: Path, kind: str = "models") -> None:
        self.repo, self.folder, self.kind = repo, folder, kind
        self.fetched: list[str] = []
        self.ranges: list[tuple[str, int, int]] = []
        self.moved = 0
        self.token: str | None = None
        self.gated = False
        self.cut_after: int | None = None
        self.dies_after: int | None = None
        self.knows_ranges = True
        self.knows_starts = True
        self.listed: dict[str, int] = {}
        self.commit = COMMIT
        self._lock = Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # the handler has a self of its own
        api = f"/api/{hub.kind}/{hub.repo}"
        resolve = re.compile(rf"/{KINDS[hub.kind]}{hub.repo}/resolve/([^/]+)/(.+)")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                if not path.startswith((f"{api}/", f"/{KINDS[hub.kind]}{hub.repo}/")) and path != api:
                    self._refuse(404, "RepoNotFound")
                elif hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self._refuse(401, "RepoNotFound")
                elif hub.gated:
                    self._refuse(403, "GatedRepo")
                elif path == api or path.startswith(f"{api}/revision/"):
                    self._info(unquote(path.removeprefix(f"{api}/revision/")) if path != api else "main")
                elif path.startswith(f"{api}/tree/"):
                    self._tree()
                elif (match := resolve.fullmatch(path)) and (hub.folder / unquote(match[2])).is_file():
                    self._file(unquote(match[2]))
                else:
                    self._refuse(404, "EntryNotFound")

            def _info(self, revision: str) -> None:
                if revision not in ("main", hub.commit):
                    self._refuse(404, "RevisionNotFound")
                    return
                self._json(
                    {"id": hub.repo, "sha": hub.commit, "siblings": [{"rfilename": n} for n in names(hub.folder)]}
                )

            def _tree(self) -> None:
                """Answer a few entries a page, as the hub does with its thousand."""
                start, page = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0]), 4
                entries = [tree_entry(hub.folder, name) for name in names(hub.folder)]
                entries = [entry | {"size": hub.listed.get(str(entry["path"]), entry["size"])} for entry in entries]
                link = {"Link": f'<{hub.url}{urlsplit(self.path).path}?cursor={start + page}>; rel="next"'}
                self._json(entries[start : start + page], link if start + page < len(entries) else {})

            def _file(self, name: str) -> None:
                content = (hub.folder / name).read_bytes()
                headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if wanted and hub.knows_ranges:
                    first = int(wanted[1]) if hub.knows_starts else 0
                    last = min(int(wanted[2] or len(content)), len(content) - 1)
                    hub.ranges.append((name, first, last))
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                    self._send(206, content[first : last + 1], headers)
                else:
                    if self.command == "GET":
                        hub.fetched.append(name)
                    self._send(200, content, headers)

            def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
                self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

            def _refuse(self, status: int, code: str) -> None:
                self._send(status, b"{}", {"X-Error-Code": code})

            def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "GET":
                    return
                if "ETag" not in headers:  # no file
                    self.wfile.write(content)
                    return
                with hub._lock:
                    most = [len(content) if hub.cut_after is None else hub.cut_after]
                    most += [max(hub.dies_after - hub.moved, 0)] if hub.dies_after is not None else []
                    allowed = content[: min(most)]
                    hub.moved += len(allowed)
                self.wfile.write(allowed)
                self.close_connection = len(allowed) < len(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def names(folder: Path) -> list[str]:
    """Return the paths of all files, as the hub lists them."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def blob_id(content: bytes) -> str:
    """Return the digest that git gives these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tree_entry(folder: Path, name: str) -> dict[str, object]:
    """Return a file as the tree route lists it."""
    content = (folder / name).read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
