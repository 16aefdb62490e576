import os

import pytest

from penala.errors import NotFound, UsageError, WorkspaceError
from penala.workspace.artifacts import digest_file, digest_of


@pytest.fixture
def rows(tmp_path):
    """A file of the user's."""
    file = tmp_path / "train.jsonl"
    file.write_text('{"n": 1}\n')
    return file


def test_a_file_is_kept_as_it_was(workspace, rows):
    """Under its own name and its content's digest; what the user does with the file afterwards changes nothing."""
    row = workspace.data.add("kopi", rows)
    rows.write_text("changed")

    kept = workspace.data.path(row)
    assert (row.version, row.type, row.digest) == ("1", "uri_file", digest_file(kept))
    assert (kept.name, kept.read_text()) == ("train.jsonl", '{"n": 1}\n')
    assert digest_of(workspace.artifacts / kept.parent.name) == kept.parent.name


def test_a_folder_and_a_table_are_told_apart(workspace, tmp_path, rows):
    """An MLTable file inside makes the folder a table."""
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    rows.rename(folder / "deep" / "rows.jsonl")

    row = workspace.data.add("kopi", folder)
    (folder / "MLTable").write_text("paths: []")

    assert (row.type, row.digest) == ("uri_folder", workspace.data.path(row).name)
    assert (workspace.data.path(row) / "deep" / "rows.jsonl").is_file()
    assert workspace.data.add("kopi", folder).type == "mltable"
    assert workspace.data.add("kopi", folder, type="uri_folder").type == "uri_folder"


def test_versions_count_up_and_the_same_content_keeps_its_own(workspace, rows):
    """Adding twice is adding once; another content of the same version is refused, and the old one stays."""
    first = workspace.data.add("kopi", rows, about={"description": "orders"})
    assert workspace.data.add("kopi", rows) == first
    assert workspace.data.add("kopi", rows, "1") == first

    rows.write_text("other")
    assert workspace.data.add("kopi", rows).version == "2"
    with pytest.raises(UsageError, match="kopi:1: is there already, with other content; choose another version"):
        workspace.data.add("kopi", rows, "1")
    assert workspace.data.get("kopi", "1") == first
    assert [one["version"] for one in workspace.data.list("kopi")] == ["1", "2"]
    assert workspace.data.list()[0]["description"] == "orders"


def test_the_same_content_may_have_several_versions_by_name(workspace, rows):
    """A version that is asked for is made."""
    workspace.data.add("kopi", rows, "1")

    assert workspace.data.add("kopi", rows, "final").version == "final"


@pytest.mark.parametrize("reference", ["kopi", "azureml:kopi:7", "kopi@latest", "azureml://data/kopi/versions/7"])
def test_an_asset_is_found_by_all_its_names(workspace, rows, reference):
    """latest is what was added last, whatever it is called."""
    workspace.data.add("kopi", rows, "9")
    wanted = workspace.data.add("kopi", rows, "7")

    assert workspace.data.get(reference) == wanted


def test_what_is_not_there_is_answered_with_what_is(workspace, rows):
    """The near name, or the known versions."""
    workspace.data.add("kopi", rows, "7")

    with pytest.raises(NotFound, match="no data asset is called 'kopy'; did you mean 'kopi'"):
        workspace.data.get("azureml:kopy:7")
    with pytest.raises(NotFound, match="kopi has no version '8'; its versions: 7"):
        workspace.data.get("kopi", "8")


@pytest.mark.parametrize(
    ("type", "message"),
    [
        ("uri_folder", "is no uri_folder; give a folder"),
        ("mltable", "is no mltable; give a folder that holds MLTable"),
        ("csv", "is no type of data: 'csv'; use uri_file"),
    ],
)
def test_what_is_of_another_type_is_refused(workspace, rows, type, message):
    """Before anything is copied."""
    with pytest.raises(UsageError, match=message):
        workspace.data.add("kopi", rows, type=type)

    assert list(workspace.artifacts.iterdir()) == []


def test_what_cannot_be_added_is_refused_and_leaves_nothing(workspace, tmp_path):
    """A missing path, an empty folder, a name with a colon."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(UsageError, match="no such file or folder"):
        workspace.data.add("kopi", tmp_path / "gone")
    with pytest.raises(UsageError, match="empty: holds no files"):
        workspace.data.add("kopi", tmp_path / "empty")
    with pytest.raises(UsageError, match="is no name of an asset"):
        workspace.data.add("a:b", tmp_path)
    assert list(workspace.artifacts.iterdir()) == []


def test_a_name_that_is_no_utf_8_is_refused(workspace, tmp_path):
    """The database holds text, and such a name is bytes."""
    path = tmp_path / os.fsdecode(b"rows\xff.csv")
    path.write_text("a,b\n")

    with pytest.raises(WorkspaceError, match=r"rows\\udcff.csv' is no UTF-8, and cannot be kept; give the file"):
        workspace.data.add("rows", path)
    assert workspace.data.list() == []


def test_a_name_may_begin_with_a_tilde(workspace, tmp_path, monkeypatch):
    """What an office program leaves beside its files names no user's home."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~$rows.csv").write_text("a,b\n")

    assert workspace.data.path(workspace.data.add("rows", "~$rows.csv")).name == "~$rows.csv"


def test_a_read_only_folder_is_kept_in_one_that_can_move(workspace, tmp_path):
    """The folder of the user's stays as it is."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.csv").write_text("a,b\n")
    folder.chmod(0o555)
    kept = workspace.data.path(workspace.data.add("rows", folder))

    assert (kept.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o755, 0o555)


def test_an_output_of_a_job_is_not_copied(workspace):
    """It lies under its digest already."""
    (workspace.artifacts / "abc").mkdir()
    (workspace.artifacts / "abc" / "rows").write_text("1")

    row = workspace.data.add("kopi", workspace.artifacts / "abc", job="brisk")

    assert (row.path, row.job) == ("artifacts/abc", "brisk")
    assert os.listdir(workspace.artifacts) == ["abc"]


def test_an_asset_whose_files_are_gone_is_named(workspace, rows):
    """Whoever asks for the path learns it, not a step an hour later."""
    row = workspace.data.add("kopi", rows)
    workspace.data.path(row).unlink()

    with pytest.raises(UsageError, match=r"data asset kopi:1: .*its files are gone"):
        workspace.data.path(row)
