"""What the addresses in a job document stand for on this machine.

data/train.jsonl, file:..., ~/x                       a file or folder, relative to the document
azureml:NAME:V, azureml:NAME@latest, asset ids        a data asset or a model
azureml://jobs/J[/STEP]/outputs/O[/paths/P]           an output of an earlier job, or of one of its steps
azureml://jobs/J[/STEP]/outputs/artifacts/paths/P     what it left beside its outputs, as `Jobs.artifacts` names it
azureml://datastores/D/paths/P, and its long form     WORKSPACE/datastores/D/P
http://..., https://...                               a file, fetched once a job is planned
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from penala import assets
from penala.errors import NotFound, UsageError, near
from penala.workspace.artifacts import digest, digest_of
from penala.workspace.plan import ARTIFACTS, File

if TYPE_CHECKING:
    from penala.workspace.client import Workspace
    from penala.workspace.places import Place

MODEL_TYPES = frozenset({"mlflow_model", "custom_model", "triton_model"})
_JOB = re.compile(r"azureml://jobs/([^/]+)(?:/([^/]+))?/outputs/([^/]+)(?:/paths/(.*))?")
DATASTORE = re.compile(r"azureml:/{1,2}(?:subscriptions/.+?/)?datastores/([^/]+)/paths/(.+)")
_ELSEWHERE = re.compile(r"(wasbs?|abfss?|adl|s3|gs|hdfs|runs|models|git\+https|azureml):/")
_FOLDER_TYPES = frozenset({"uri_folder", "mlflow_model", "mltable", "triton_model"})
_FETCH_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files of this machine, named by their path."""

    digest: Callable[[Path], str] = digest_of

    def __call__(self, address: str, kind: str, place: Place) -> File:
        """Return the file at a path that starts at the place's folder; raise UsageError when it cannot be used."""
        if re.match(r"[a-z]+:", address):
            raise UsageError(f"is {address!r}", fix="give the path of a local file or folder")
        path = local_path(address, kind, place)
        return File(str(path), self.digest(path))


def local_path(address: str, kind: str, place: Place) -> Path:
    """Return the absolute path that an address names. Raises UsageError where nothing, or a file for a folder, lies."""
    path = (place.folder / os.path.expanduser(address)).absolute()
    if not path.exists():
        raise UsageError(f"there is no {path}", fix="check the path")
    if kind in _FOLDER_TYPES and not path.is_dir():
        raise UsageError(f"{path} is a file", fix="give a folder")
    return path


@dataclass(frozen=True, slots=True)
class Addresses:
    """Finds what addresses stand for. Unless `fetch`, it only looks: no model is made, nothing fetched or hashed."""

    workspace: Workspace
    fetch: bool = True
    report: Callable[[dict[str, Any]], None] = lambda event: None

    def __call__(self, address: str, kind: str, place: Place) -> File:
        """Return the file or folder at an address. Raises UsageError or NotFound when there is none."""
        path = self._path(address.strip(), kind, place)
        if path.is_dir() and self.workspace.folder.is_relative_to(path.resolve()):
            raise UsageError(f"{path} holds the workspace itself, which changes", fix="give a folder without it")
        try:
            return File(str(path), self.workspace.jobs.digests(path) if self.fetch else "")
        except OSError as error:
            raise UsageError(f"{error.filename or path} cannot be read: {error.strerror}") from None

    def _path(self, address: str, kind: str, place: Place) -> Path:
        bare = address.removeprefix("azureml:")  # the SDK writes it before paths and links of every kind
        if bare.startswith(("http://", "https://")):
            return self._fetched(bare)
        if match := _JOB.fullmatch(address):
            return self._output(*match.groups())
        if match := DATASTORE.fullmatch(address):
            return self._stored(match[1], match[2])
        if _ELSEWHERE.match(bare) and not assets.is_asset(bare):
            fix = "give a local path, a data asset or an output of a job"
            raise UsageError(f"{bare} cannot be reached from here", fix=fix)
        if assets.is_asset(address) and not _is_path(bare, place.folder):
            return self._asset(address, kind)
        return local_path(re.sub(r"^file:(//)?", "", bare), kind, place)

    def _asset(self, address: str, kind: str) -> Path:
        """Return where a model or a data asset lies; which of both, its type or its id says."""
        if kind in MODEL_TYPES or "/models/" in address:
            if not self.fetch:
                named = assets.parse(address, "models")
                self.workspace.models.show(named.name if named.version == assets.LATEST else str(named))
                return Path(address)
            return self.workspace.models.folder(address, self.report)
        try:
            return self.workspace.data.path(self.workspace.data.get(address))
        except NotFound as error:
            raise NotFound(error.what, fix=error.fix or "`penala data add NAME --from PATH` adds one") from None

    def _output(self, job: str, step: str | None, output: str, below: str | None) -> Path:
        """Return where an output of an earlier job, or of one of its steps, lies."""
        jobs, named = self.workspace.jobs, f"job {job}" if step is None else f"step {step} of job {job}"
        outputs = jobs.outputs(job) if step is None else jobs.step_outputs(job, step)
        if output == ARTIFACTS and output not in outputs:
            return _artifact(jobs.artifacts(job, step), named, unquote(below or "").strip("/"))
        if output not in outputs:
            fix = near(output, outputs) or (f"there are {', '.join(outputs)}" if outputs else None)
            raise NotFound(f"{named} has no output '{output}'", fix=fix)
        path = outputs[output]
        if path is None:
            raise UsageError(f"{named} has not written its output '{output}'", fix="wait until it is Completed")
        path = path / unquote(below) if below else path
        if not path.exists():
            raise NotFound(f"the output '{output}' of {named} has no {below}")
        return path

    def _stored(self, datastore: str, below: str) -> Path:
        """Return what stands in for a path in a cloud's datastore: the same path below the workspace."""
        path = in_datastore(self.workspace.folder, datastore, below)
        if not path.exists():
            fix = f"put its files into {path}, or give a local path"
            raise UsageError(f"the datastore '{datastore}' has no {below} here", fix=fix)
        return path

    def _fetched(self, address: str) -> Path:
        """Return the file behind a link, fetched now: what a link gives may change."""
        import httpx

        try:
            name = Path(httpx.URL(address).path).name or "download"
        except httpx.InvalidURL as error:
            raise UsageError(f"{address} is no link: {error}", fix="give a local path") from None
        path = self.workspace.folder / "data" / digest(["web/1", address]) / name
        if not self.fetch:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # a folder of its own: another process may fetch the same
            with tempfile.TemporaryDirectory(prefix=".half-", dir=path.parent) as work:
                half = Path(work) / name
                with (
                    httpx.stream("GET", address, timeout=_FETCH_S, follow_redirects=True) as answer,
                    open(half, "wb") as file,
                ):
                    answer.raise_for_status()
                    for part in answer.iter_bytes():
                        file.write(part)
                half.replace(path)
        except (httpx.HTTPError, UnicodeError) as error:  # UnicodeError: its host can have no address
            raise UsageError(f"{address} cannot be fetched: {error}", fix="give a local path") from None
        return path


def _artifact(artifacts: Mapping[str, Path], job: str, below: str) -> Path:
    """Return the file or folder at a path below a job's artifacts."""
    for place, path in artifacts.items():
        inner = path / below[len(place) :].strip("/")
        if f"{below}/".startswith(f"{place}/") and inner.exists():
            return inner
    there = f"it left {', '.join(artifacts)}" if artifacts else "it left none"
    raise NotFound(f"{job} has no artifact at '{below}'", fix=there)


def in_datastore(workspace: Path, datastore: str, below: str) -> Path:
    """Return what stands in for a path in a cloud's datastore. Raises UsageError for one that leads out of it."""
    folder = workspace / "datastores"
    path = Path(os.path.normpath(folder / datastore / unquote(below)))
    if not path.is_relative_to(folder) or path == folder:
        raise UsageError(f"the path {below} leads out of the datastore '{datastore}'")
    return path


def _is_path(text: str, folder: Path) -> bool:
    """Tell whether a text behind `azureml:` is a path: by its look, or because something lies there."""
    return text.startswith((".", "~")) or (not re.search(r":|@|^/", text) and (folder / text).exists())
