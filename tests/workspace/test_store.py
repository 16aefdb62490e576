"""The store: rows come back as they went in, transactions are whole, and SQLite's complaints are readable."""

import contextlib
import ctypes
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from penala.errors import WorkspaceError
from penala.workspace.client import Workspace
from penala.workspace.store import (
    MIGRATIONS,
    CacheRow,
    ComputeRow,
    DeploymentRow,
    DigestRow,
    EndpointRow,
    EventRow,
    JobRow,
    JobSummary,
    LineageRow,
    ModelRow,
    StepRow,
    Store,
)

JOB = JobRow("a-1", "A", "pipeline", "Queued", {"plan": ["é", None, 0.1]}, "d1", created=1.5)
ROWS = [
    JOB,
    StepRow("a-1", "train", 3, outputs={"out": "ab"}, figures={"loss": 0.5}, error={"what": "x"}, rc=0, started=2.0),
    CacheRow("k", {"out": "ab"}, None, "a-1", "train"),
    LineageRow("ab", "train.data", "cd", "a-1"),
    ModelRow("m", "1", "ab", "artifacts/ab", "a-1", {"k": "v"}, {"n": 1}),
    EndpointRow("e", 8000, "Succeeded", {"blue": 100}),
    DeploymentRow("e", "blue", "m", "1", "Succeeded", {"x": [1]}),
    EventRow("job a-1", "it began"),
    DigestRow("/data", "1-2-3", "ab"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "penala.db", create=True) as opened:
        yield opened


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.table)
def test_a_row_comes_back_as_it_went_in(store: Store, row: JobRow) -> None:
    """Each record has exactly the columns of its table, JSON included, also for a second connection."""
    store.insert(row)

    with Store(store.path) as other:
        assert other.find(type(row)) == [row]
    columns = [column["name"] for column in store.sql(f"pragma table_info({row.table})")]
    assert set(columns) == {field.name for field in fields(row)}


def test_rows_are_found_by_their_columns(store: Store) -> None:
    """A filter takes values, None, and several values; order and limit are SQL's."""
    for number, status in enumerate(["Queued", "Failed", "Failed"]):
        started = None if number == 0 else float(number)
        store.insert(replace(JOB, name=f"j{number}", status=status, created=float(number), started=started))

    assert [job.name for job in store.find(JobSummary, status="Failed", order="created desc")] == ["j2", "j1"]
    assert [job.name for job in store.find(JobRow, started=None)] == ["j0"]
    assert [job.name for job in store.find(JobRow, status=("Queued", "Failed"), limit=2)] == ["j0", "j1"]
    assert store.get(JobRow, name="j3") is None


def test_updates_and_deletes_count_what_they_met(store: Store) -> None:
    """An update changes what matches and nothing else."""
    store.insert(JOB)
    store.insert(replace(JOB, name="b-1"))

    assert store.update(JobRow, {"name": "a-1"}, status="Running", error={"what": "ü"}) == 1
    assert store.get(JobRow, name="a-1") == replace(JOB, status="Running", error={"what": "ü"})
    assert store.get(JobRow, name="b-1") == replace(JOB, name="b-1")
    assert store.delete(JobRow, name="a-1") == 1
    assert store.delete(JobRow, name="a-1") == 0


def test_a_taken_key_is_refused_unless_replaced(store: Store) -> None:
    """The second row of one key needs `replace`."""
    store.insert(JOB)

    with pytest.raises(sqlite3.IntegrityError):
        store.insert(JOB)
    store.insert(replace(JOB, status="Failed"), replace=True)
    assert [job.status for job in store.find(JobRow)] == ["Failed"]


def test_a_transaction_lands_whole_or_not_at_all(store: Store) -> None:
    """What fails inside, also inside an inner transaction, undoes the outer one."""

    def fail_inside() -> None:
        with store.transaction():
            store.insert(JOB)
            with store.transaction():
                store.insert(ROWS[1])
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()

    assert store.find(JobRow) == []
    assert store.find(StepRow) == []


def test_other_connections_see_nothing_of_an_open_transaction(store: Store) -> None:
    """A reader sees the rows of finished transactions only, and does not wait."""
    with Store(store.path) as other:
        with store.transaction():
            store.insert(JOB)
            assert other.find(JobRow) == []
        assert other.find(JobRow) == [JOB]


def test_many_processes_make_and_write_one_store(tmp_path: Path) -> None:
    """Processes that open a missing store at once get one schema, and none loses a row."""
    code = (
        "import sys; from pathlib import Path; from penala.workspace.store import *\n"
        "with Store(Path(sys.argv[1]), create=True) as store:\n"
        "    for n in range(10): store.insert(EventRow(sys.argv[2], str(n)))"
    )
    path = tmp_path / "penala.db"
    writers = [subprocess.Popen([sys.executable, "-c", code, path, str(number)]) for number in range(4)]

    assert [writer.wait() for writer in writers] == [0] * 4
    with Store(path) as store:
        assert len(store.find(EventRow)) == 40


def test_durability_is_not_traded_for_speed(store: Store) -> None:
    """The store runs in WAL mode and waits for the disk."""
    assert store.sql("pragma journal_mode")[0][0] == "wal"
    assert store.sql("pragma synchronous")[0][0] == 2  # full


def test_an_older_store_is_brought_up_to_date(tmp_path: Path) -> None:
    """A store of schema 0, the empty file, gets every migration, once."""
    (tmp_path / "penala.db").touch()
    for _ in range(2):
        with Store(tmp_path / "penala.db") as store:
            assert store.sql("pragma user_version")[0][0] == len(MIGRATIONS)
            store.find(JobRow)


OLD_ROWS = {
    "jobs": ("a-1", "A", "pipeline", "Completed", '{"plan": []}', "d1", 0, 1.5, 2.5, 3.5, None, '{"x": 1}'),
    "steps": ("a-1", "train", 0, "Completed", 1, "k", 0, None, '{"out": "ab"}', '{"loss": 0.5}', None, 2.5, 3.5),
    "cache": ("k", '{"out": "ab"}', '{"loss": 0.5}', "a-1", "train", 3.5),
    "models": ("m", "1", "ab", "artifacts/ab", "a-1", "{}", "{}", 3.5),
    "events": (3.5, "job a-1", "it ended"),
}
OPEN = "import sys; from pathlib import Path; from penala.workspace.store import *; Store(Path(sys.argv[1])).close()"
KILLED_IN = """
import os, signal, sqlite3, sys
from pathlib import Path
from penala.workspace import store
class Killed(sqlite3.Connection):
    def execute(self, statement, *values):
        if sys.argv[2] in statement:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(statement, *values)
connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, factory=Killed, **options)
store.Store(Path(sys.argv[1]))
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Make a store as the first release left it, WAL included."""
    path = tmp_path / "penala.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal")
        db.executescript(MIGRATIONS[0])
        for table, row in OLD_ROWS.items():
            db.execute(f"insert into {table} values({', '.join('?' * len(row))})", row)
        db.execute("pragma user_version = 1")
    return path


def dumped(path: Path) -> tuple[int, list[str]]:
    """Return the schema's number and all that is in a database, without changing it."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute("pragma user_version").fetchone()[0], sorted(db.iterdump())


def test_the_rows_of_an_older_schema_stay(old: Path) -> None:
    """What the first release wrote is read as before, columns that came later are None, and new tables take rows."""
    with Store(old) as store:
        job = JobRow("a-1", "A", "pipeline", "Completed", {"plan": []}, "d1", 1.5, 0, 2.5, 3.5, None, {"x": 1})
        figures = {"loss": 0.5}
        step = StepRow("a-1", "train", 0, "Completed", 1, "k", 0, None, {"out": "ab"}, figures, None, 2.5, 3.5)
        assert store.find(JobRow) == [job]
        assert store.find(StepRow) == [step]
        assert store.find(CacheRow) == [CacheRow("k", {"out": "ab"}, figures, "a-1", "train", 3.5)]
        assert store.find(ModelRow) == [ModelRow("m", "1", "ab", "artifacts/ab", "a-1", created=3.5)]
        assert store.find(EventRow) == [EventRow("job a-1", "it ended", 3.5)]
        store.insert(ComputeRow("gpu", "Standard_NC6s_v3", "Succeeded"))
        assert store.sql("pragma integrity_check")[0][0] == "ok"


def test_an_older_schema_is_kept_beside_the_new_one(old: Path) -> None:
    """The backup is the whole database as it was; opening again neither migrates nor makes another."""
    before = dumped(old)
    Store(old).close()
    backup = old.with_name("penala.db.schema-1.bak")
    made = backup.stat()

    assert dumped(backup) == before
    Store(old).close()
    assert backup.stat() == made
    assert {path.name for path in old.parent.glob("*.bak*")} == {backup.name}


def test_many_processes_migrate_one_store_once(old: Path) -> None:
    """Whoever comes second waits and finds it done: one backup, of the old schema."""
    before = dumped(old)
    openers = [subprocess.Popen([sys.executable, "-c", OPEN, old]) for _ in range(6)]

    assert [opener.wait() for opener in openers] == [0] * 6
    assert dumped(old.with_name("penala.db.schema-1.bak")) == before
    assert dumped(old)[0] == len(MIGRATIONS)
    assert [path.name for path in old.parent.glob("*.bak*")] == ["penala.db.schema-1.bak"]


@pytest.mark.parametrize("statement", ["vacuum into", "steps add column run", "create table catalogue", "commit"])
def test_a_killed_migration_leaves_the_old_schema(old: Path, statement: str) -> None:
    """Killed in its backup, in its middle or just before its end, it is as if it had never begun; the next one ends."""
    before = dumped(old)

    ran = subprocess.run([sys.executable, "-c", KILLED_IN, str(old), statement])
    assert ran.returncode == -signal.SIGKILL
    assert dumped(old) == before
    with Store(old) as store:
        assert [job.name for job in store.find(JobRow)] == ["a-1"]
    assert dumped(old.with_name("penala.db.schema-1.bak")) == before


def test_a_newer_store_is_refused(store: Store) -> None:
    """A program that does not know the schema touches nothing."""
    store.sql(f"pragma user_version = {len(MIGRATIONS) + 1}")

    versions = f"has schema {len(MIGRATIONS) + 1}, this penala knows {len(MIGRATIONS)}"
    with pytest.raises(WorkspaceError, match=f"{versions}; use the newer penala"):
        Store(store.path)
    assert store.sql("pragma user_version")[0][0] == len(MIGRATIONS) + 1


def test_a_missing_store_is_only_made_when_asked(tmp_path: Path) -> None:
    """Reading does not leave an empty database behind."""
    with pytest.raises(WorkspaceError, match="there is no workspace database"):
        Store(tmp_path / "penala.db")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(store: Store) -> None:
    """The message says what to do, and the store is whole afterwards."""
    store.insert(JOB)
    pages = store.sql("pragma page_count")[0][0]
    store.sql(f"pragma max_page_count = {pages}")  # SQLite's own way to have a full disk

    with pytest.raises(WorkspaceError, match="no space left on the disk; free some"), store.transaction():
        store.insert(replace(JOB, name="big", spec={"plan": "x" * 100_000}))
    assert store.find(JobRow) == [JOB]


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    """A file that is no database is not overwritten."""
    (tmp_path / "penala.db").write_bytes(b"no database " * 100)

    with pytest.raises(WorkspaceError, match="is damaged, or not a database"):
        Store(tmp_path / "penala.db", create=True)
    assert (tmp_path / "penala.db").read_bytes().startswith(b"no database")


def test_a_locked_store_is_named(store: Store) -> None:
    """A writer that waits in vain says so."""
    with Store(store.path) as other:
        other.sql("pragma busy_timeout = 1")
        with store.transaction(), pytest.raises(WorkspaceError, match="another process has locked it"):
            other.insert(JOB)


def without_rights() -> None:
    """Take the right to write everywhere from root, before an exec; others have none to take."""
    pr_capbset_drop, cap_dac_override = 24, 1
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0)


def test_a_store_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    """Somebody without the right to write gets a sentence, for a missing workspace and for one that is there."""
    code = (
        "import sys; from penala.workspace.client import Workspace\n"
        "from penala.errors import WorkspaceError; from penala.workspace.store import EventRow\n"
        "for folder in sys.argv[1:]:\n"
        "    try: Workspace.open(folder, create=True).store.insert(EventRow('x', 'y'))\n"
        "    except WorkspaceError as error: print(error)"
    )
    made = tmp_path / "made"
    Workspace.open(made, create=True).close()
    for path in (*made.iterdir(), made, tmp_path):
        path.chmod(0o555)
    argv = [sys.executable, "-c", code, tmp_path / "new", made]
    ran = subprocess.run(argv, preexec_fn=without_rights, capture_output=True, text=True, check=True)
    tmp_path.chmod(0o755)
    made.chmod(0o755)

    said = ran.stdout.splitlines()
    assert [line.split(":")[0] for line in said] == [str(tmp_path / "new"), str(made / "penala.db")]
    for line in said:
        assert "the workspace cannot be written; make it writable, or name another folder with --workspace" in line


def test_a_list_of_jobs_is_read_from_its_index(store: Store) -> None:
    """Ten thousand plans stay unread: the times of a job lie behind its plan in the table."""
    names = ", ".join(field.name for field in fields(JobSummary))
    plan = store.sql(f"explain query plan select {names} from jobs order by created desc, rowid desc")

    assert "COVERING INDEX jobs_listed" in plan[0]["detail"]


def test_a_database_that_is_mostly_free_gets_small(store: Store) -> None:
    """What stays, stays; nothing is copied for a few free pages."""
    for number in range(200):
        store.insert(replace(JOB, name=f"j{number}", spec={"plan": "x" * 20_000}))
    store.sql("pragma wal_checkpoint(truncate)")
    full = store.path.stat().st_size
    store.sql("delete from jobs where name like 'j2%'")
    store.compact()
    assert store.path.stat().st_size == full
    store.sql("delete from jobs where name <> 'j7'")
    store.compact()

    assert store.path.stat().st_size < full / 10
    assert [job.name for job in store.find(JobRow)] == ["j7"]
