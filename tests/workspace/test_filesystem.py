"""Which file systems may hold a workspace."""

import fcntl
import sqlite3
from pathlib import Path

import pytest

from penala.errors import WorkspaceError
from penala.workspace import filesystem
from penala.workspace.client import Workspace
from penala.workspace.filesystem import Mount, mount_of, problem

MOUNTS = r"""22 28 0:20 / /proc rw shared:13 - proc proc rw
28 1 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 28 0:41 / /home rw,relatime shared:21 master:2 - nfs4 server:/home rw,vers=4.2
41 40 0:42 / /home/me/local\040disk rw - xfs /dev/vdb rw
42 28 0:43 / /mnt rw - ext4 /dev/vdc rw
43 42 0:44 / /mnt rw - cifs //server/share rw
44 28 0:45 / /homes rw - btrfs /dev/vdd rw
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/srv/ws", Mount("ext4", Path("/"))),
        ("/home/me/ws", Mount("nfs4", Path("/home"))),
        ("/home/me/local disk/ws", Mount("xfs", Path("/home/me/local disk"))),
        ("/mnt", Mount("cifs", Path("/mnt"))),
        ("/homes/ws", Mount("btrfs", Path("/homes"))),
    ],
)
def test_the_longest_mount_point_counts(path: str, mount: Mount) -> None:
    """Of two on one point the later one does; blanks are written in octal; a name is no prefix of another."""
    assert mount_of(Path(path), MOUNTS) == mount


NETWORKS = "nfs nfs4 cifs smb3 smbfs lustre afs ceph fuse.sshfs fuse.glusterfs fuse.s3fs fuse.mount-s3 fuse.blobfuse2"


@pytest.mark.parametrize("kind", NETWORKS.split())
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    """The error names the type and its mount point, why, and what to do; a folder that is not there yet counts too."""
    found = problem(tmp_path / "not" / "there", f"1 0 0:1 / / rw - {kind} server:/ rw")

    text = f"lies on a file system of type {kind} (mounted at /), and a workspace's locks and database need a local one"
    assert str(found) == (
        f"{tmp_path}/not/there: {text}; name a folder on a local disk with --workspace or PENALA_WORKSPACE"
    )


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs"])
def test_a_local_file_system_is_taken(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known as local, and not tried out."""
    monkeypatch.setattr(fcntl, "flock", None)

    assert problem(tmp_path, f"1 0 0:1 / / rw - {kind} none rw") is None


@pytest.mark.parametrize("kind", ["9p", "virtiofs", "fuse.unheard-of"])
def test_an_unknown_file_system_is_tried_out(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken when locks and the database's shared memory work, and nothing is left of the trial."""
    mountinfo = f"1 0 0:1 / / rw - {kind} none rw"
    assert problem(tmp_path / "ws", mountinfo) is None

    monkeypatch.setattr(fcntl, "flock", lambda *args: None)  # as where locks are granted to everybody
    assert f"type {kind}" in str(problem(tmp_path / "ws", mountinfo))
    monkeypatch.undo()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(":memory:"))  # as where WAL cannot be had
    assert f"type {kind}" in str(problem(tmp_path / "ws", mountinfo))
    assert list(tmp_path.iterdir()) == []


def test_no_workspace_is_made_on_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is written; one that is there already is still opened."""
    (tmp_path / "mountinfo").write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/ rw\n")
    Workspace.open(tmp_path / "there", create=True).close()
    monkeypatch.setattr(filesystem, "MOUNTINFO", tmp_path / "mountinfo")

    with pytest.raises(WorkspaceError, match="of type nfs4"):
        Workspace.open(tmp_path / "ws", create=True)
    assert not (tmp_path / "ws").exists()
    Workspace.open(tmp_path / "there", create=True).close()
