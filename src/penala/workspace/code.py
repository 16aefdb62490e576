"""Which of penala's own files a component's entry module can run or read, and the digest of them.

Imports are followed through the source, those inside functions too, so that a step runs again when something that it
may use has changed, and only then: the command line or the endpoint can change without a training run being lost.

The source is searched, not parsed, which takes a tenth of the time; the tests compare what is found with Python's own
parser.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from penala.workspace.artifacts import digest, digest_file

ROOT = Path(__file__).parents[1]
_NOT_IN_STEPS = frozenset({"workspace", "cli", "studio", "azure"})  # entry modules cannot import these
_READS_BY_NAME = "inputs.py"  # reads any component's YAML: the module that asks for one names it
_NOT_RUN = re.compile(r'"""(?:.|\n)*?"""|^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)*', re.MULTILINE)
_IMPORT = re.compile(
    r"^([ \t]*)(?:import[ \t]+([^\n(]+)|from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n(]+))", re.MULTILINE
)
_NAME = re.compile(r"([\w.]+)(?:\s+as\s+\w+)?")
_TEXT = re.compile(r"""["']([\w.-]+)["']""")


@cache
def code_digest(module: str, root: Path = ROOT) -> str:
    """Return the digest of all that `python -m MODULE` can run or read of penala."""
    return digest(["code/2", [[name, digest_file(root / name)] for name in code_files(module, root)]])


def code_files(module: str, root: Path = ROOT) -> list[str]:
    """Return the paths, below penala's folder, of the files that a module can import or read, sorted."""
    found: set[str] = set()
    seen: set[tuple[str, bool]] = set()
    left = [(module, True)]
    while left:
        name, called = entry = left.pop()
        file = _file(name, root)
        if entry in seen or file is None:
            continue
        seen.add(entry)
        source = _read(name, file, root)
        found |= source.files
        left += [(parent, False) for parent in _parents(name)]  # imported on the way, not called
        left += [(other, True) for other in (source.all_imports if called else source.imports)]
    return sorted(found)


@dataclass(frozen=True, slots=True)
class _Source:
    """What one module imports when it is imported, and in all; and the files that it is or can read."""

    imports: frozenset[str]
    all_imports: frozenset[str]
    files: frozenset[str]


@cache
def _read(name: str, file: Path, root: Path) -> _Source:
    text = _NOT_RUN.sub("", file.read_text(encoding="utf-8"))
    found = list(_imports(text, name, file, root))
    texts = {file.stem, *_TEXT.findall(text)}
    started = {one for one in texts if one.startswith("penala.")}  # with -m
    paths = [*file.parent.glob(f"{file.stem}.*"), *(path for path in file.parent.iterdir() if path.name in texts)]
    if file != root / _READS_BY_NAME:
        paths += [path for path in root.glob("components/*.yaml") if path.stem in texts]
    return _Source(
        imports=frozenset(one for indent, one in found if not indent),
        all_imports=frozenset(one for _, one in found) | started,
        files=frozenset(str(one.relative_to(root)) for path in paths for one in _data(path)),
    )


def _imports(text: str, name: str, file: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yield (indentation, module) of what the import statements of the module `name` load."""
    for indent, plain, origin, names in _IMPORT.findall(text):
        if plain:
            yield from ((indent, one) for one in _NAME.findall(plain))
            continue
        if origin.startswith("."):
            level = len(origin) - len(origin.lstrip("."))
            package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
            origin = ".".join([*package[: len(package) - level + 1], *filter(None, [origin.lstrip(".")])])
        for one in _NAME.findall(names):
            yield indent, f"{origin}.{one}" if _file(f"{origin}.{one}", root) else origin


def _data(path: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder that is no package."""
    if path.is_file():
        yield path
    elif not (path / "__init__.py").exists() and path.name != "__pycache__":
        yield from (file for file in path.rglob("*") if file.is_file())


@cache
def _file(module: str, root: Path) -> Path | None:
    """Return the source of one of penala's modules; None for a name that is none, or that steps cannot import."""
    package, *parts = module.split(".")
    if package != "penala" or not _NOT_IN_STEPS.isdisjoint(parts[:1]) or not all(map(str.isidentifier, parts)):
        return None
    path = root.joinpath(*parts)
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
