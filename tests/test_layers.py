"""The walls of docs/design: which folder may import which."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penala

ROOT = Path(penala.__file__).parent
STAGES = ["conversations", "tokens", "basemodel", "training", "engines", "evaluation", "package", "endpoint"]
BASE = {"errors", "assets", "inputs", "recipe"}
TORCH = ("training/", "engines/", "evaluation/", "basemodel/convert.py", "package/weights.py")
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imports(module: str, *, inside_functions: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import that runs, with or without those inside functions."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    nested = inside(tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    never_run = inside(tree, lambda node: isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for node in ast.walk(tree):
        if id(node) in never_run or (not inside_functions and id(node) in nested):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: write the whole name instead of a relative import"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def inside(tree: ast.Module, holds: Callable[[ast.AST], bool]) -> set[int]:
    """Return the identity of every node within the nodes of which `holds` is true."""
    return {id(inner) for node in ast.walk(tree) if holds(node) for inner in ast.walk(node)}


def room(dotted: str) -> str | None:
    """Return the folder or top-level module of penala that a dotted name belongs to."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "penala" and len(parts) > 1 else None


def allowed(here: str, module: str) -> set[str]:
    """Return the rooms that `module`, which lies in room `here`, may import anywhere in its code."""
    if here in STAGES:
        return {*STAGES[: STAGES.index(here) + 1], *BASE}
    if module == "cli/on_azureml.py":
        return {*allowed("cli", ""), "azure"}
    return {
        "errors": set(),
        "assets": {"errors"},
        "inputs": {"errors"},
        "recipe": {"errors", "assets", "inputs"},
        "components": {"components", *STAGES, *BASE},
        "workspace": {"workspace", "components", *STAGES, *BASE},
        "azure": {"azure", "workspace", *STAGES, *BASE, "__version__"},
        "cli": {"cli", "workspace", *BASE, "__version__"},
        "__init__": {"workspace", *BASE},
        "__main__": {"cli"},
    }[here]


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_the_rooms_it_may(module):
    """A stage imports itself, the stages to its left, and the base; the others keep to their own list."""
    here = module.split("/")[0].removesuffix(".py")

    wrong = [
        f"src/penala/{module}:{line} imports {name}"
        for line, name in imports(module, inside_functions=True)
        if (target := room(name)) is not None and target not in allowed(here, module)
    ]

    assert not wrong


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("workspace/", "azure/"))])
def test_workspace_and_azure_import_stages_only_inside_functions(module):
    """Loading them loads no stage, so that a quick verb stays quick."""
    wrong = [
        f"src/penala/{module}:{line} imports {name}"
        for line, name in imports(module, inside_functions=False)
        if room(name) in STAGES
    ]

    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_the_sdk_of_azure_is_imported_in_its_room_and_nowhere_else(module):
    """azure-ai-ml is an extra and takes seconds to load; one module of cli/ may ask for the room, inside a function."""
    wrong = [
        f"src/penala/{module}:{line} imports {name}"
        for line, name in imports(module, inside_functions=True)
        if name.split(".")[0] == "azure" and not module.startswith("azure/")
    ]

    assert not wrong


def private_names(text: str) -> tuple[set[str], set[tuple[int, str]]]:
    """Return the private names that a module defines, and those that it asks other things for, with their lines."""
    defined, asked = set(), set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(attr=name, value=value) if re.match(r"_[a-zA-Z]", name):
                if not isinstance(value, ast.Name) or value.id not in ("self", "cls"):
                    asked.add((node.lineno, name))
    return defined, asked


def test_no_private_name_of_the_sdk_is_used():
    """What begins with an underscore may be gone in the SDK's next version: ours alone is asked for by such a name."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in MODULES if name.startswith("azure/")}
    ours = set().union(*(private_names(text)[0] for text in texts.values()))
    wrong = [
        f"src/penala/{module}:{line} uses {name}"
        for module, text in texts.items()
        for line, name in sorted(private_names(text)[1])
        if name not in ours
    ]
    wrong += [
        f"src/penala/{module}: {found}"
        for module, text in texts.items()
        for found in re.findall(r"[gs]etattr\([^,]*, ['\"]_\w+|azure\.[\w.]*\b_[a-z]\w+", text)
    ]

    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_where_tensors_live_and_nowhere_else(module):
    """torch, transformers, peft and accelerate stay in the rooms that compute."""
    heavy = {"torch", "transformers", "peft", "accelerate"}
    wrong = [
        f"src/penala/{module}:{line} imports {name}"
        for line, name in imports(module, inside_functions=True)
        if name.split(".")[0] in heavy and not module.startswith(TORCH)
    ]

    assert not wrong


def test_nobody_imports_an_entry_module():
    """The entry modules of components/ are started by argv; only they share components/entry.py."""
    wrong = [
        f"src/penala/{module}:{line} imports {name}"
        for module in MODULES
        for line, name in imports(module, inside_functions=True)
        if name.startswith("penala.components.")
        and (name.split(".")[2] != "entry" or not module.startswith("components/"))
    ]

    assert not wrong


def test_no_import_cycle():
    """The graph of module-level imports has no cycle."""
    graph = {
        "penala." + module.removesuffix(".py").removesuffix("/__init__").replace("/", "."): module for module in MODULES
    }
    edges = {
        name: {target for _, target in imports(module, inside_functions=False) if target in graph and target != name}
        for name, module in graph.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "cycle: " + " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in edges[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_there_is_no_drawer_for_odds_and_ends():
    """No module is called utils, common or helpers."""
    assert not [module for module in MODULES if Path(module).stem in {"utils", "common", "helpers"}]
