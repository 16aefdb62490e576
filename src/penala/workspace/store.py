"""The workspace's one database: SQLite in WAL mode, for several processes at once, losing nothing in a crash.

An older schema is brought up to date when it is opened, and kept beside it as penala.db.schema-N.bak.

Each table has a frozen dataclass of the same columns; columns named in `JSON_COLUMNS` hold JSON. Times are seconds
since 1970. Everything that is large lies in files, addressed by content.
"""

import contextlib
import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from penala.errors import WorkspaceError
from penala.workspace import shim

BUSY_S = 30.0  # how long a writer waits for another one
JSON_COLUMNS = frozenset(
    {"about", "spec", "error", "result", "outputs", "figures", "tags", "properties", "traffic", "settings", "record"},
)

# Never edit an entry that was released: append one. Entry n brings a store from schema n to schema n + 1.
MIGRATIONS = (
    """
    create table jobs(name text primary key, display_name text not null, kind text not null, status text not null,
        spec text not null, plan_digest text not null, cancel integer not null default 0,
        created real not null, started real, ended real, error text, result text);
    create index jobs_by_time on jobs(created);
    create index jobs_by_plan on jobs(plan_digest, created);
    create table steps(job text not null, name text not null, position integer not null, status text not null,
        attempt integer not null default 0, key text, rc integer, reused_from text, outputs text, figures text,
        error text, started real, ended real, primary key(job, name));
    create table cache(key text primary key, outputs text not null, figures text, job text not null, step text not null,
        created real not null);
    create table lineage(child text not null, relation text not null, parent text not null, job text not null,
        primary key(child, relation, parent, job));
    create index lineage_by_parent on lineage(parent);
    create table models(name text not null, version text not null, digest text not null, path text not null, job text,
        tags text not null, properties text not null, created real not null, primary key(name, version));
    create table endpoints(name text primary key, port integer not null, state text not null, traffic text not null,
        settings text not null, created real not null);
    create table deployments(endpoint text not null, name text not null, model text not null, version text not null,
        state text not null, settings text not null, instance integer not null default 0, created real not null,
        primary key(endpoint, name));
    create table events(at real not null, subject text not null, text text not null);
    create index events_by_subject on events(subject, at);
    create table digests(path text primary key, stamp text not null, digest text not null);
    """,
    """
    alter table jobs add column about text;
    alter table jobs add column run text;
    alter table steps add column run text;
    create table computes(name text primary key, size text not null, state text not null, settings text not null,
        created real not null);
    create table data(name text not null, version text not null, type text not null, path text not null,
        digest text not null, about text, job text, created real not null, primary key(name, version));
    create table components(name text not null, version text not null, kind text not null, path text not null,
        digest text not null, about text, created real not null, primary key(name, version));
    create table catalogue(name text not null, version text not null, registry text not null, record text not null,
        created real not null, primary key(name, version));
    """,
    # a list of jobs is read from this alone: in the table, a job's times lie behind its plan
    """
    create index jobs_listed on jobs(created, name, display_name, kind, status, started, ended);
    drop index jobs_by_time;
    """,
)


@dataclass(frozen=True, slots=True)
class JobSummary:
    """What a list of jobs shows: a job's row without its plan and its result."""

    table: ClassVar[str] = "jobs"

    name: str
    display_name: str
    kind: str  # pipeline, command or finetuning
    status: str  # Azure's: NotStarted, Queued, Running, Finalizing, CancelRequested, Completed, Failed, Canceled
    created: float
    started: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job; `spec` holds its plan, its tail and its settings, `about` what its document says of it beside them.

    `run` is the id of its MLflow run.
    """

    table: ClassVar[str] = "jobs"

    name: str
    display_name: str
    kind: str
    status: str
    spec: dict[str, Any]
    plan_digest: str
    created: float
    cancel: int = 0
    started: float | None = None
    ended: float | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    about: dict[str, Any] | None = None  # experiment_name, description, tags, properties
    run: str | None = None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One child job; `outputs` maps each output to the digest of its artifact, `reused_from` is JOB/STEP.

    `run` is the id of its MLflow run.
    """

    table: ClassVar[str] = "steps"

    job: str
    name: str
    position: int
    status: str = "NotStarted"
    attempt: int = 0
    key: str | None = None
    rc: int | None = None
    reused_from: str | None = None
    outputs: dict[str, str] | None = None
    figures: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    started: float | None = None
    ended: float | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class CacheRow:
    """What a finished step left, found by the digest of all that went into it."""

    table: ClassVar[str] = "cache"

    key: str
    outputs: dict[str, str]
    figures: dict[str, Any] | None
    job: str
    step: str
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class LineageRow:
    """`child` was made from `parent`: digests, or name:version of models."""

    table: ClassVar[str] = "lineage"

    child: str
    relation: str
    parent: str
    job: str


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model version."""

    table: ClassVar[str] = "models"

    name: str
    version: str
    digest: str
    path: str
    job: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class ComputeRow:
    """A compute that was created; it stands in for the cloud size `size`, or for nothing: "local"."""

    table: ClassVar[str] = "computes"

    name: str
    size: str
    state: str  # Azure's provisioning state
    settings: dict[str, Any] = field(default_factory=dict)  # tier, min_instances, max_instances, ...
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class DataRow:
    """One version of a data asset; `path` is absolute, or relative to the workspace (artifacts/DIGEST)."""

    table: ClassVar[str] = "data"

    name: str
    version: str
    type: str  # uri_file, uri_folder or mltable
    path: str
    digest: str
    about: dict[str, Any] | None = None  # description, tags, properties
    job: str | None = None
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """One version of a component of the user's; `path` is its YAML below the workspace, its code beside it."""

    table: ClassVar[str] = "components"

    name: str
    version: str
    kind: str  # command or pipeline
    path: str
    digest: str
    about: dict[str, Any] | None = None
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One version of a base model that the user added; `record` is what basemodel.catalogue reads an entry from."""

    table: ClassVar[str] = "catalogue"

    name: str
    version: str
    registry: str
    record: dict[str, Any]
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One endpoint; `traffic` maps deployments to per cent."""

    table: ClassVar[str] = "endpoints"

    name: str
    port: int
    state: str
    traffic: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """One deployment; `instance` counts its starts and names its shim's folder."""

    table: ClassVar[str] = "deployments"

    endpoint: str
    name: str
    model: str
    version: str
    state: str
    settings: dict[str, Any] = field(default_factory=dict)
    instance: int = 0
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened to a subject (`job NAME`, `endpoint NAME`), in words."""

    table: ClassVar[str] = "events"

    subject: str
    text: str
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class DigestRow:
    """The digest that a file had when its size, time and inode were `stamp`."""

    table: ClassVar[str] = "digests"

    path: str
    stamp: str
    digest: str


Row = TypeVar(
    "Row",
    JobSummary,
    JobRow,
    StepRow,
    CacheRow,
    LineageRow,
    ModelRow,
    ComputeRow,
    DataRow,
    ComponentRow,
    CatalogueRow,
    EndpointRow,
    DeploymentRow,
    EventRow,
    DigestRow,
)


class Store:
    """A connection to the database. One a thread; any number of processes at once."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the database and bring it to the newest schema; with `create`, make it when it is missing."""
        self.path = path
        if not create and not path.exists():
            raise WorkspaceError("there is no workspace database", where=str(path), fix="run a recipe to make one")
        with self._translated():
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        for statement in ("synchronous = full", "foreign_keys = on", f"busy_timeout = {int(BUSY_S * 1000)}"):
            self._db.execute(f"pragma {statement}")
        deadline = time.monotonic() + BUSY_S
        while self._db.execute("pragma journal_mode").fetchone()[0] != "wal":
            try:
                self._db.execute("pragma journal_mode = wal")
            except sqlite3.OperationalError as error:  # SQLite does not wait when two processes switch at once
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if self._schema() != len(MIGRATIONS):
            self._migrate()

    def _schema(self) -> int:
        return int(self._db.execute("pragma user_version").fetchone()[0])

    def _migrate(self) -> None:
        with self.transaction():
            schema = self._schema()  # asked again: another process may have been faster
            if schema > len(MIGRATIONS):
                raise WorkspaceError(
                    f"the workspace has schema {schema}, this penala knows {len(MIGRATIONS)}",
                    where=str(self.path),
                    fix="use the newer penala that made it, or another folder with --workspace",
                )
            if 0 < schema < len(MIGRATIONS):
                self._back_up(schema)
            for script in MIGRATIONS[schema:]:
                for statement in script.split(";"):
                    self._db.execute(statement)
            self._db.execute(f"pragma user_version = {len(MIGRATIONS)}")

    def _back_up(self, schema: int) -> None:
        """Keep the database as it is beside itself, whole and on the disk: PATH.schema-N.bak.

        Called with the write lock held, so a second connection sees what the migration starts from, and nobody else
        migrates.
        """
        backup = self.path.with_name(f"{self.path.name}.schema-{schema}.bak")
        half = backup.with_name(f"{backup.name}.{os.getpid()}.tmp")
        half.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_S)) as reader:
            reader.execute("vacuum into ?", (str(half),))
        with open(half, "rb") as written:
            os.fsync(written.fileno())
        half.replace(backup)
        shim.sync_folder(backup.parent)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def compact(self) -> None:
        """Give pages back to the disk when more than half of the database's are free. Needs space for a copy."""
        free, pages = (self.sql(f"pragma {name}")[0][0] for name in ("freelist_count", "page_count"))
        if free > pages / 2:
            self.sql("vacuum")
            self.sql("pragma wal_checkpoint(truncate)")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside land together or not at all. Inside another transaction, be part of that one."""
        if self._db.in_transaction:
            yield
            return
        with self._translated():
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._db.execute("rollback")
                raise

    def insert(self, row: Row, *, replace: bool = False) -> None:
        """Add a row; raise sqlite3.IntegrityError when its key is taken, unless `replace`."""
        names = [column.name for column in fields(row)]
        values = [_encoded(name, getattr(row, name)) for name in names]
        marks = ", ".join("?" * len(names))
        verb = "insert or replace" if replace else "insert"
        self.sql(f"{verb} into {row.table}({', '.join(names)}) values({marks})", *values)

    def find(self, kind: type[Row], *, order: str = "rowid", limit: int = -1, **where: Any) -> list[Row]:
        """Return the rows whose columns have these values (a tuple: one of these), in SQL's `order`."""
        names = [column.name for column in fields(kind)]
        clause, values = _where(where)
        found = self.sql(f"select {', '.join(names)} from {kind.table}{clause} order by {order} limit {limit}", *values)
        if JSON_COLUMNS.isdisjoint(names):
            return [kind(*row) for row in found]
        return [kind(*map(_decoded, names, row)) for row in found]

    def get(self, kind: type[Row], **where: Any) -> Row | None:
        """Return the first row whose columns have these values, or None."""
        found = self.find(kind, limit=1, **where)
        return found[0] if found else None

    def update(self, kind: type[Row], where: Mapping[str, Any], **values: Any) -> int:
        """Set columns of the rows that match; return how many there were."""
        clause, matched = _where(where)
        sets = ", ".join(f"{name} = ?" for name in values)
        both = [_encoded(name, value) for name, value in values.items()] + matched
        with self._translated():
            return self._db.execute(f"update {kind.table} set {sets}{clause}", both).rowcount

    def delete(self, kind: type[Row], **where: Any) -> int:
        """Remove the rows that match; return how many there were."""
        clause, values = _where(where)
        with self._translated():
            return self._db.execute(f"delete from {kind.table}{clause}", values).rowcount

    def sql(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """Run one SQL statement and return its rows as they lie in the database."""
        with self._translated():
            return self._db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # the caller's to understand
        except sqlite3.DatabaseError as error:
            raise _explained(error, self.path) from error
        except UnicodeEncodeError as error:  # of a file's name: Python reads bytes that are no UTF-8 as surrogates
            around = error.object[max(0, error.start - 40) : error.end + 40]
            fix = "give the file or folder another name"
            raise WorkspaceError(f"the name {around!a} is no UTF-8, and cannot be kept", fix=fix) from None


def _where(where: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return the SQL of a filter and its values; `is` instead of `=`, so that None finds null."""
    terms: list[str] = []
    values: list[Any] = []
    for name, value in where.items():
        if isinstance(value, tuple):
            terms.append(f"{name} in ({', '.join('?' * len(value))})")
            values.extend(value)
        else:
            terms.append(f"{name} is ?")
            values.append(value)
    return (f" where {' and '.join(terms)}" if terms else ""), values


def _encoded(name: str, value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if name in JSON_COLUMNS and value is not None else value


def _decoded(name: str, value: Any) -> Any:
    return json.loads(value) if name in JSON_COLUMNS and value is not None else value


def _explained(error: sqlite3.DatabaseError, path: Path) -> WorkspaceError:
    """Say in the user's words what SQLite complains about."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return explain(PermissionError(errno.EACCES, "not writable"), path)
    if code == sqlite3.SQLITE_FULL:
        return explain(OSError(errno.ENOSPC, "full"), path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what, fix = f"another process has locked it for over {BUSY_S:.0f} s", "see which program has the file open"
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        what, fix = "is damaged, or not a database", "move it away, or use another folder with --workspace"
    else:
        what, fix = f"SQLite cannot use it ({error})", "look at the disk and the folder's permissions"
    return WorkspaceError(what, where=str(path), fix=fix)


def explain(error: OSError, path: Path) -> WorkspaceError:
    """Say in the user's words why a file of the workspace cannot be written or read."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WorkspaceError("no space left on the disk", where=str(path), fix="free some, then run the same again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        fix = "make it writable, or name another folder with --workspace or PENALA_WORKSPACE"
        return WorkspaceError("the workspace cannot be written", where=str(path), fix=fix)
    return WorkspaceError(error.strerror or str(error), where=str(error.filename or path))
