"""Several programs at work in one workspace at the same time: no row is lost, and nobody is told to try again."""

import subprocess
import sys
from pathlib import Path

from penala.workspace.artifacts import digest_of
from penala.workspace.client import Workspace
from penala.workspace.store import CacheRow, DataRow, EventRow, JobRow, LineageRow, ModelRow, StepRow

PROCESSES, ROUNDS = 8, 15
WRITER = """
import sys
from pathlib import Path
from penala.workspace.client import Workspace
from penala.workspace.models import register
from penala.workspace.plan import Literal, Plan, Step
from penala.workspace.store import CacheRow, EventRow, JobRow, StepRow
from penala.workspace.tail import Tail

folder, number, rounds, digest = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
for turn in range(rounds):
    with Workspace.open(folder, create=True) as workspace:  # as each command does
        step = Step("s", "S", "c", "1", "", "true", "", {"x": Literal(f"{number}-{turn}")}, {"out": "uri_folder"})
        plan = Plan("p", "1", "P", (step,), {})
        job = workspace.jobs.submit(plan, Tail(mlflow=False))
        register(workspace.store, "shared", f"{number}.{turn}", digest, job=job)
        register(workspace.store, f"own-{number}", str(turn + 1), digest, job=job)
        data = folder.parent / f"{number}.txt"
        data.write_text(f"{number} {turn}")
        workspace.data.add("numbers", data)
        with workspace.store.transaction():
            workspace.store.insert(CacheRow(job, {"out": digest}, None, job, "s"))
            seen = workspace.store.sql("select count(*) from events where subject = 'count'")[0][0]
            workspace.store.insert(EventRow("count", str(seen)))
        workspace.store.update(StepRow, {"job": job}, status="Completed", outputs={"out": digest})
        workspace.store.update(JobRow, {"name": job}, status="Completed", ended=1.0)
        assert len(workspace.jobs.list()) > turn
"""


def test_eight_programs_write_at_once(tmp_path: Path) -> None:
    """Each opens the workspace anew for each of its writes, the first time before anybody has made it."""
    folder, artifact = tmp_path / "ws", tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "weights").write_text("w")
    digest = digest_of(artifact)
    (folder / "artifacts").mkdir(parents=True)
    artifact.rename(folder / "artifacts" / digest)
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    writers = [
        subprocess.Popen([sys.executable, script, folder, str(number), str(ROUNDS), digest], stderr=subprocess.PIPE)
        for number in range(PROCESSES)
    ]
    said = [writer.communicate()[1].decode() for writer in writers]

    assert said == [""] * PROCESSES
    total = PROCESSES * ROUNDS
    with Workspace.open(folder) as workspace:
        store = workspace.store
        assert [len(store.find(kind)) for kind in (JobRow, StepRow, CacheRow)] == [total] * 3
        assert {row.status for row in store.find(JobRow)} == {"Completed"}
        assert len(store.find(ModelRow)) == len(store.find(LineageRow)) == 2 * total
        counted = [int(row.text) for row in store.find(EventRow, subject="count")]
        assert counted == list(range(total)), "a transaction read what another one was about to change"
        versions = [int(row.version) for row in store.find(DataRow, name="numbers")]
        assert sorted(versions) == list(range(1, total + 1))
        assert store.sql("pragma integrity_check")[0][0] == "ok"
