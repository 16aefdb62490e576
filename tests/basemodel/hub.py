"""A Hugging Face hub on loopback: one repository, the three routes that a snapshot download asks for."""

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """Serve the files of `folder` as repository `repo`; `fetched` lists the files that were asked for in whole."""

    def __init__(self, repo: str, folder: Path) -> None:
        self.fetched: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(repo, folder))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self, repo: str, folder: Path) -> type[BaseHTTPRequestHandler]:
        fetched = self.fetched

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                if re.fullmatch(rf"/api/models/{repo}(/revision/main)?", path):
                    self._json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names(folder)]})
                elif path.startswith(f"/api/models/{repo}/tree/"):
                    self._json([tree_entry(folder, name) for name in names(folder)])
                elif (match := re.fullmatch(rf"/{repo}/resolve/[^/]+/(.+)", path)) and (folder / match[1]).is_file():
                    content = (folder / match[1]).read_bytes()
                    if self.command == "GET":
                        fetched.append(match[1])
                    self._send(200, content, {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": COMMIT})
                else:
                    self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

            def _json(self, value: object) -> None:
                self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

            def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tree_entry(folder: Path, name: str) -> dict[str, object]:
    content = (folder / name).read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
