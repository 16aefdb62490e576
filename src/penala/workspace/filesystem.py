"""Whether a folder's file system can hold a workspace: its locks and its database need one that is local."""

import contextlib
import fcntl
import re
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from penala.errors import WorkspaceError

MOUNTINFO = Path("/proc/self/mountinfo")
_LOCAL = re.compile(r"ext[234]|xfs|btrfs|zfs|bcachefs|f2fs|jfs|overlay|tmpfs|ramfs|rootfs")
# what keeps no lock between machines, or no shared memory; a type of FUSE may stand as fuse.TYPE
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|lustre|afs|ceph|coda|ncpfs|gpfs|beegfs|pvfs2|orangefs|panfs|vboxsf"
    r"|fuse\.(.*s3.*|.*sshfs|.*gluster.*|.*ceph.*|.*blobfuse.*|.*gcsfuse.*|.*rclone.*|.*davfs.*|goofys|juicefs|nfs.*)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: its type as the kernel calls it, and where it is mounted."""

    type: str
    point: Path


def mount_of(path: Path, mountinfo: str) -> Mount:
    """Return the mount that an absolute path without symbolic links lies on; `mountinfo` is as in proc(5)."""
    best = Mount("unknown", Path("/"))
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split()[4]))
        # of two on one point, the later hides the earlier
        if path.is_relative_to(point) and len(point.parts) >= len(best.point.parts):
            best = Mount(after.split()[0], point)
    return best


def problem(folder: Path, mountinfo: str | None = None) -> WorkspaceError | None:
    """Return why a workspace cannot lie in `folder`, which need not exist yet; None when it can.

    A type that is neither known as local nor as a network's (9p and virtiofs, which containers are made of) is tried
    out. Raises OSError for a folder that cannot be written.
    """
    folder = folder.resolve()
    mount = mount_of(folder, MOUNTINFO.read_text(encoding="utf-8") if mountinfo is None else mountinfo)
    if _LOCAL.fullmatch(mount.type) or (not _NETWORK.fullmatch(mount.type) and _holds_locks(folder)):
        return None
    return WorkspaceError(
        f"lies on a file system of type {mount.type} (mounted at {mount.point}), and a workspace's locks and database "
        "need a local one",
        where=str(folder),
        fix="name a folder on a local disk with --workspace or PENALA_WORKSPACE",
    )


def _holds_locks(folder: Path) -> bool:
    """Try what a workspace needs: a lock that a second descriptor sees, and SQLite's WAL with its shared memory."""
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=".penala-probe-", dir=there, ignore_cleanup_errors=True) as work:
        return _flock_works(Path(work) / "lock") and _wal_works(Path(work) / "db")


def _flock_works(path: Path) -> bool:
    with open(path, "w") as one, open(path) as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _wal_works(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path)) as one, contextlib.closing(sqlite3.connect(path)) as other:
            if one.execute("pragma journal_mode = wal").fetchone()[0] != "wal":
                return False
            with one:
                one.execute("create table probe(x)")
            return bool(other.execute("select count(*) from sqlite_master").fetchone()[0])
    except sqlite3.DatabaseError:
        return False
