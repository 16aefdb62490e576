"""Where a model version comes from, and whether it still is what was registered."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import PenalaError
from penala.workspace.artifacts import digest_of
from penala.workspace.manifest import hashed, read_manifest
from penala.workspace.store import DataRow, JobRow, LineageRow, ModelRow, StepRow, Store

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry
    from penala.workspace.client import Workspace

IMPORT, PREPARE = "chat_completion_model_import", "chat_completion_datapreprocess"
FINETUNE, EVALUATE = "chat_completion_finetune", "chat_completion_evaluation"


# --- verify


def verify(workspace: "Workspace", reference: str) -> dict[str, Any]:
    """Return {"model", "ok", "files", "problems"} of a version: whether its files are what was registered.

    Of a tuned version every byte is read, and its template lock is checked again. Raises NotFound.
    """
    found = workspace.models.find(reference)
    if not isinstance(found, ModelRow):
        problems, files = _base_problems(workspace, found), None
        return {"model": found.reference, "ok": not problems, "files": files, "problems": problems}
    folder = workspace.folder / found.path
    if not folder.exists():
        problems, files = [f"{folder} is gone"], 0
    else:
        now = hashed(folder)
        problems, files = _changes(workspace, found, now) + _package_problems(folder), len(now)
    return {"model": f"{found.name}:{found.version}", "ok": not problems, "files": files, "problems": problems}


def _changes(workspace: "Workspace", row: ModelRow, now: Mapping[str, str]) -> list[str]:
    """Return a line for each file that is not what it was when the version was registered."""
    manifest = read_manifest(workspace.folder, row.digest)
    if manifest is None:  # registered by an older penala, or changed itself
        same = digest_of(workspace.folder / row.path) == row.digest
        return [] if same else [f"its files are not those that were registered as {row.digest}"]
    then = manifest["files"]
    return [
        *(f"{name} is missing" for name in sorted(then.keys() - now.keys())),
        *(f"{name} was added" for name in sorted(now.keys() - then.keys())),
        *(f"{name} has changed" for name in sorted(then) if now.get(name, then[name]) != then[name]),
    ]


def _package_problems(folder: Path) -> list[str]:
    """Return what keeps an MLflow model folder of ours from being read and asked as it was trained."""
    from penala.basemodel.mlflow_layout import mlmodel
    from penala.package.read import read_package
    from penala.tokens.chat_tokenizer import ChatTokenizer

    try:
        if (folder / "MLmodel").is_file() and "transformers" in mlmodel(folder)["flavors"]:
            package = read_package(folder)
            if package.lock is not None:
                package.lock.verify(ChatTokenizer.from_folder(package.model_folder))
    except PenalaError as error:
        return [str(error)]
    return []


def _base_problems(workspace: "Workspace", entry: "Entry") -> list[str]:
    from penala.basemodel.folder import check_folder
    from penala.basemodel.sources import place

    try:
        workspace.models.resolve(entry.reference)
        for source in entry.sources:
            if (fetched := place(entry, source, workspace.cache)).is_dir():
                check_folder(fetched)
    except PenalaError as error:
        return [str(error)]
    return []


# --- explain


def explain(workspace: "Workspace", reference: str) -> dict[str, Any]:
    """Return what a version was made of, and the command that makes it again.

    Of a tuned version: base model, data files with their digests and whether they have changed since, rows, settings,
    figures, code and environment. Raises NotFound.
    """
    found = workspace.models.find(reference)
    if not isinstance(found, ModelRow):
        return workspace.models.show(reference) | {"command": None}
    manifest = read_manifest(workspace.folder, found.digest) or {}
    made = {
        "model": f"{found.name}:{found.version}",
        "id": f"azureml:{found.name}:{found.version}",
        "base_model": found.properties.get("base_model"),
        "base_model_id": _base_id(workspace.folder / found.path),
        "digest": found.digest,
        "created": found.created,
        "tags": found.tags,
        "properties": found.properties,
        "job": found.job,
        "environment": manifest.get("environment"),
    }
    job = workspace.store.get(JobRow, name=found.job) if found.job else None
    return made | (_of_job(workspace, job) if job is not None else {"command": None})


def _base_id(folder: Path) -> str | None:
    """Return the id of the base model that a package names."""
    from penala.basemodel.mlflow_layout import metadata

    return metadata(folder).get("base_model_asset_id") if (folder / "MLmodel").is_file() else None


def _of_job(workspace: "Workspace", job: JobRow) -> dict[str, Any]:
    steps = {step["name"]: step for step in job.spec.get("plan", {}).get("steps", [])}
    rows = {row.name: row for row in workspace.store.find(StepRow, order="position", job=job.name)}
    figures = {step["component"]: rows[name].figures or {} for name, step in steps.items() if name in rows}
    about, again = job.about or {}, ["penala", "--workspace", str(workspace.folder)]
    return {
        "base_model": _base_of(steps.values()),
        "data": list(_files_of(workspace, steps.values())),
        "rows": figures.get(PREPARE, {}).get("ledger"),
        "settings": {
            step["component"]: {name: value["text"] for name, value in step["inputs"].items() if "text" in value}
            for step in steps.values()
        },
        "training": figures.get(FINETUNE),
        "evaluation": figures.get(EVALUATE),
        "steps": [
            {
                "name": name,
                "component": step["component"],
                "version": step.get("version"),
                "code": step.get("code"),
                "outputs": rows[name].outputs,
                "reused_from": rows[name].reused_from,
            }
            for name, step in steps.items()
            if name in rows
        ],
        "recipe": _recipe_of(about.get("recipe")),
        "command": about.get("command") or shlex.join([*again, "jobs", "rerun", job.name, "--force-rerun"]),
    }


def _recipe_of(kept: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the recipe's file and text as they were, and whether the file is the same today."""
    if kept is None:
        return None
    file = Path(kept["file"])
    same = file.is_file() and file.read_text(encoding="utf-8", errors="replace") == kept["text"]
    return {**kept, "now": _today(file, same=same)}


def _today(path: Path, *, same: bool) -> str:
    return "unchanged" if same else "changed since" if path.exists() else "gone"


def _base_of(steps: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the name of the base model that a job's import step took, else the path that it took it from."""
    inputs: Mapping[str, Any] = next((step["inputs"] for step in steps if step.get("component") == IMPORT), {})
    named = inputs.get("catalogue_model", {}).get("text")
    if named is not None and named.startswith("{"):
        record = json.loads(named)
        return f"{record['name']}:{record['version']}"
    paths = (inputs.get(name, {}).get("path") for name in ("pytorch_model_path", "mlflow_model_path"))
    return named or inputs.get("huggingface_id", {}).get("text") or next(filter(None, paths), None)


def _files_of(workspace: "Workspace", steps: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every file and folder of the user's that went into a job, once, and whether it is the same today."""
    assets = {str(workspace.folder / row.path): f"{row.name}:{row.version}" for row in workspace.store.find(DataRow)}
    inputs = {
        value["path"]: (name, value) for step in steps for name, value in step["inputs"].items() if "path" in value
    }
    for path, (name, value) in inputs.items():
        same = Path(path).exists() and workspace.jobs.digests(Path(path)) == value["digest"]
        now = _today(Path(path), same=same)
        yield {"input": name, "path": path, "digest": value["digest"], "asset": assets.get(path), "now": now}


def explained(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what `explain` gave for a person, as (title, text)."""
    yield "model", f"{found['model']}  {_short(found['digest'])}"
    yield "base model", "  ".join(filter(None, (found["base_model"], found["base_model_id"]))) or "-"
    for one in found.get("data", ()):
        yield one["input"], f"{one['asset'] or one['path']}  {_short(one['digest'])}  {one['now']}"
    for title, value in (("rows", (found.get("rows") or {}).get("rows")), ("training", found.get("training"))):
        if value:
            yield title, _pairs(value)
    for moment, figures in (found.get("evaluation") or {}).items():
        if isinstance(figures, Mapping):
            yield moment, _pairs(figures)
    if settings := found.get("settings", {}).get(FINETUNE):
        yield "settings", _pairs(settings)
    for code, names in _codes(found.get("steps", ())).items():
        yield "code", f"{_short(code)}  {', '.join(names)}"
    if environment := found["environment"]:
        packages = f"{len(environment['packages'])} packages"
        yield (
            "environment",
            f"{_short(environment['id'])}  Python {environment['python']}, {packages} (--json lists them)",
        )
    if recipe := found.get("recipe"):
        yield "recipe", f"{recipe['file']}  {recipe['now']} (--json has its text)"
    yield "job", found["job"] or "-"
    yield "again", found["command"] or "-"


def _codes(steps: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return digest of code -> the steps that ran it."""
    found: dict[str, list[str]] = {}
    for step in steps:
        if step.get("code"):
            found.setdefault(step["code"], []).append(step["name"])
    return found


def _pairs(values: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping | list)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )


# --- lineage


def lineage(workspace: "Workspace", reference: str) -> str:
    """Draw what NAME:VERSION was made from: its job, its base model, and each step's inputs down to the user's files.

    Below the job stand the digests of the code of its steps and of the environment that they ran in.
    """
    found = workspace.models.find(reference)
    if not isinstance(found, ModelRow):
        return "\n".join([f"{found.reference}  base model, {found.licence or 'licence unknown'}", *_sources(found)])
    store = workspace.store
    lines = [f"{found.name}:{found.version}  {_short(found.digest)}"]
    labels = _file_names(store)
    if found.job:
        lines.append(f"  job {found.job}")
        plan = (store.get(JobRow, name=found.job) or _NO_JOB).spec.get("plan", {})
        manifest = read_manifest(workspace.folder, found.digest)
        if manifest is not None:
            environment = manifest["environment"]
            lines.append(f"    environment  {_short(environment['id'])}  Python {environment['python']}")
        lines += [
            f"    code  {_short(code)}  {', '.join(names)}" for code, names in _codes(plan.get("steps", ())).items()
        ]
        labels |= _base_label(store, found.job, plan.get("steps", ()))
    lines += _drawn(store, found.digest, "  ", labels, set())
    return "\n".join(lines)


_NO_JOB = JobRow("", "", "", "", {}, "", 0.0)


def _base_label(store: Store, job: str, steps: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what the import step of a job wrote, with the base model's name."""
    names = [step["name"] for step in steps if step.get("component") == IMPORT]
    row = store.get(StepRow, job=job, name=names[0]) if names else None
    return {digest: f"base model {_base_of(steps)}" for digest in ((row.outputs or {}).values() if row else ())}


def _drawn(store: Store, child: str, indent: str, names: Mapping[str, str], seen: set[str]) -> Iterator[str]:
    parents = dict.fromkeys((row.relation, row.parent) for row in store.find(LineageRow, child=child))
    for relation, parent in parents:
        drawn = parent in seen and store.get(LineageRow, child=parent) is not None
        label = names.get(parent) or ("(above)" if drawn else "")
        yield f"{indent}{relation}  {_short(parent)}  {label}".rstrip()
        if parent not in seen:
            seen.add(parent)
            yield from _drawn(store, parent, indent + "  ", names, seen)


def _file_names(store: Store) -> dict[str, str]:
    """Return digest -> path of every file of the user's that a job's plan took, or the name of the data asset."""
    found = {}
    for (spec,) in store.sql("select spec from jobs order by created"):
        for step in json.loads(spec).get("plan", {}).get("steps", []):
            found.update({v["digest"]: v["path"] for v in step["inputs"].values() if "path" in v and "digest" in v})
    return found | {row.digest: f"{row.name}:{row.version}" for row in store.find(DataRow, order="created")}


def _sources(entry: "Entry") -> Iterator[str]:
    for source in entry.to_dict()["sources"]:
        yield "  " + "  ".join(str(value) for value in source.values())


def _short(digest: str) -> str:
    return digest[:12]
