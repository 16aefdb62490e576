"""Which change of penala's own code makes which step run again."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penala.workspace import code
from penala.workspace.code import ROOT, code_digest, code_files

ENTRIES = {
    "validation": "ft_nlp_common_validation",
    "import": "chat_completion_model_import",
    "prepare": "chat_completion_datapreprocess",
    "tune": "chat_completion_finetune",
    "evaluate": "chat_completion_evaluation",
    "convert": "ft_nlp_model_converter",
}
ALL = set(ENTRIES)


def users(name: str) -> set[str]:
    """Return the steps that run again when the file penala/NAME changes."""
    return {step for step, entry in ENTRIES.items() if name in code_files(f"penala.components.{entry}")}


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("errors.py", ALL),
        ("components/entry.py", ALL),
        ("inputs.py", ALL),
        ("components/chat_completion_finetune.yaml", {"tune"}),
        ("components/chat_completion_pipeline.yaml", set()),
        ("tokens/prepare.py", {"prepare"}),
        ("tokens/template.py", {"prepare", "tune", "evaluate", "convert"}),  # a checkpoint's lock is compared
        ("tokens/page.py", set()),
        ("tokens/pages/tokens.html.j2", set()),
        ("training/trainer.py", {"tune"}),
        ("training/loss.py", {"tune", "evaluate"}),
        ("basemodel/catalogue/smollm2-135m-instruct.yaml", {"import"}),
        ("package/weights.py", {"convert"}),
        ("conversations/__init__.py", {"validation", "prepare", "tune", "evaluate", "convert"}),
        ("conversations/hub.py", set()),
        ("recipe.py", set()),
        ("cli/main.py", set()),
        ("endpoint/gateway.py", set()),
        ("workspace/runner.py", set()),
    ],
)
def test_a_change_reaches_the_steps_that_use_it(name: str, steps: set[str]) -> None:
    """And no other one: the files are penala's own, so this says what a change of them costs."""
    assert (ROOT / name).is_file()
    assert users(name) == steps


PACKAGE = {
    "__init__.py": "def lazy():\n    import penala.never\n",
    "components/__init__.py": "",
    "components/a.py": "from penala.stage import one\n",
    "components/a.yaml": "",
    "components/b.yaml": "",
    "stage/__init__.py": '"""Words\nimport penala.never\n"""\nfrom penala.stage.first import (\n    x,  # why\n)\n',
    "stage/first.py": "import penala.plain as plain, json\nif TYPE_CHECKING:\n    from penala import never\n\nx = 1\n",
    "stage/one.py": (
        "def work():\n    from .two import z\n    from ..other import w\n    run('-m', 'penala.started')\n"
        "    read('table.txt', 'b')\n"
    ),
    "stage/one/rows.txt": "",
    "stage/two.py": "from penala.workspace import client\n",
    "stage/table.txt": "",
    "stage/unread.txt": "",
    "other.py": "from . import deep\n",
    "deep/__init__.py": "",
    "deep/unused.py": "",
    "plain.py": "",
    "started.py": "",
    "never.py": "",
    "workspace/__init__.py": "",
    "workspace/client.py": "",
}
UNUSED = {"never.py", "deep/unused.py", "stage/unread.txt", "workspace/__init__.py", "workspace/client.py"}


def test_every_way_to_import_and_to_read_is_followed(tmp_path: Path) -> None:
    """Packages on the way, several lines, functions, dots, -m, and files by their names; not what only types need."""
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert set(code_files("penala.components.a", tmp_path)) == PACKAGE.keys() - UNUSED


def parsed(file: Path) -> set[str]:
    """Return what Python's parser says that a source imports, in functions too, without what only types need."""
    found, left = set(), [ast.parse(file.read_bytes())]
    for node in left:
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            children = node.orelse
        left += children
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''} {alias.name}" for alias in node.names}
    return found


def searched(file: Path) -> set[str]:
    """Return what the search in the source finds, in the same words."""
    text = code._NOT_RUN.sub("", file.read_text(encoding="utf-8"))
    found = set()
    for _, plain, origin, names in code._IMPORT.findall(text):
        listed = [line.partition("#")[0] for line in (plain or names).splitlines()]
        found |= {f"{origin} {one}".strip() for one in code._NAME.findall("\n".join(listed))}
    return found


MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("name", [name for name in MODULES if name.split("/")[0] not in code._NOT_IN_STEPS])
def test_the_search_sees_what_the_parser_sees(name: str) -> None:
    """In every module that a step may import."""
    assert searched(ROOT / name) == parsed(ROOT / name)


@pytest.mark.parametrize("step", ["validation", "import", "prepare"])
def test_what_a_step_loads_is_covered(step: str) -> None:
    """Nothing of penala that an entry module has loaded once it is imported is missing."""
    entry = f"penala.components.{ENTRIES[step]}"
    script = f"import sys, {entry}; print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'penala'))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {str(Path(file).relative_to(ROOT)) for file in ran.stdout.split()}

    assert len(loaded) > 5
    assert loaded <= set(code_files(entry))


def test_the_digest_follows_the_bytes(tmp_path: Path) -> None:
    """Another byte in a file that counts is another digest; one that does not count changes nothing."""
    roots = [tmp_path / str(number) for number in range(3)]
    for root in roots:
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    (roots[1] / "endpoint" / "gateway.py").write_text("changed")
    (roots[1] / "training" / "__pycache__").mkdir()
    (roots[1] / "training" / "__pycache__" / "trainer.pyc").write_text("compiled")
    with (roots[2] / "training" / "loss.py").open("a") as file:
        file.write("\n")
    before, same, other = (code_digest("penala.components.chat_completion_finetune", root) for root in roots)

    assert same == before
    assert other != before
