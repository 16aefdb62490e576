"""From a component's command template to what is executed, with every value arriving verbatim.

A value never becomes source text of a shell. A template that needs no shell is cut into words first and filled in
afterwards, so that a value is (part of) exactly one argument, whatever it holds. Where a shell reads the text (the
template has pipes, variables, ..., or a word of it is the script of `bash -c`), the value travels in an environment
variable, and the text gets a reference to it that fits the quotes around it. Only a here-document whose delimiter is
quoted, which no shell reads, gets the value itself.
"""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from penala.errors import UsageError

_PLACEHOLDER = re.compile(r"\$\{\{\s*((?:inputs|outputs)\.[\w.-]+)\s*\}\}")
_EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_MARK = re.compile("\ue000(\\d+)\ue001")  # stands for a value while a shell's grammar is applied around it
_NEEDS_SHELL = frozenset("|&;<>()$`*?[]{}~#!\n")
_SHELL = r"(?:\S*/)?(?:ba|da|z|k)?sh"
_ASSIGNMENT = re.compile(r"\w+=")
_CONTINUED = re.compile(r"\\\r?\n")
# words that no program but the shell itself answers to
_BUILTINS = frozenset(
    {".", ":", "alias", "builtin", "cd", "command", "declare", "eval", "exec", "exit", "export", "hash", "let", "local"}
    | {"popd", "pushd", "read", "readonly", "return", "set", "shift", "shopt", "source", "time", "times", "trap"}
    | {"type", "ulimit", "umask", "unalias", "unset", "wait"}
)
# the start of a here-document: tabs are cut off, a quote, the delimiter
_HERE = re.compile(r"""<<(?!<)(-?)[ \t]*(['"\\]?)([A-Za-z_][\w.-]*)['"]?""")
# `bash -c '...'` or `bash -c "..."` inside a longer script
_NESTED = re.compile(rf"""(?<![^\s;&|(])({_SHELL}\s+(?:-\w+\s+)*-\w*c\s+)(?:'([^']*)'|"((?:[^"\\]|\\.)*)")""")


@dataclass(frozen=True, slots=True)
class Command:
    """What is executed: the arguments, and variables that must be in the environment."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


def placeholders(template: str) -> tuple[set[str], set[str], set[str]]:
    """Return the names (`inputs.x`, `outputs.y`) that a template needs, those it only uses within `$[[...]]`, and
    every `${{...}}` that is no placeholder."""
    required = set(_PLACEHOLDER.findall(_OPTIONAL.sub("", template)))
    strange = {text for text in _EXPRESSION.findall(template) if not _PLACEHOLDER.fullmatch(text)}
    return required, set(_PLACEHOLDER.findall(template)) - required, strange


def render(template: str, values: Mapping[str, str], python: str = sys.executable) -> Command:
    """Fill a template with `values` (`inputs.x`, `outputs.y` -> text).

    A `$[[...]]` part without its values is left out; a leading `python` means `python`, the one that runs penala.
    Raises UsageError for a placeholder without a value, and for quotes that do not close.
    """
    text = _OPTIONAL.sub(lambda part: part[1] if set(_PLACEHOLDER.findall(part[1])) <= set(values) else "", template)
    found: list[str] = []

    def mark(part: re.Match[str]) -> str:
        if part[1] not in values:
            raise UsageError(f"the command needs {part[1]}, which has no value", where=template)
        found.append(values[part[1]])
        return f"\ue000{len(found) - 1}\ue001"

    words = _words(_PLACEHOLDER.sub(mark, text.strip()), template)
    scripts = set(_script_positions(words))
    argv = [
        _shell_text(word, found) if position in scripts else _MARK.sub(lambda part: found[int(part[1])], word)
        for position, word in enumerate(words)
    ]
    if argv and argv[0] in ("python", "python3"):
        argv[0] = python
    return Command(argv, {f"PENALA_VALUE_{number}": value for number, value in enumerate(found)} if scripts else {})


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text that nobody runs with values in it; a placeholder without one stays."""
    return _PLACEHOLDER.sub(lambda part: values.get(part[1], part[0]), text)


def _words(text: str, template: str) -> list[str]:
    """Cut a command into words, or hand it whole to bash when it uses more of a shell than quotes."""
    if "'" not in text and "<<" not in text:  # a shell joins continued lines, but not between single quotes
        text = _CONTINUED.sub("", text)
    if (
        _ASSIGNMENT.match(text)
        or text.partition(" ")[0] in _BUILTINS
        or _CONTINUED.search(text)
        or any(
            char in _NEEDS_SHELL if context == "code" else context == "double" and char in "$`"
            for _, char, context in _scan(text)
        )
    ):
        return ["bash", "-c", text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"the command cannot be read: {error}", where=template) from None


def _script_positions(words: list[str]) -> Iterator[int]:
    """Find the words that a shell among the words will read as a script: what follows `bash -c`."""
    for start, word in enumerate(words):
        if re.fullmatch(_SHELL, word):
            for position in range(start + 1, len(words) - 1):
                if not words[position].startswith("-"):
                    break
                if re.fullmatch(r"-[a-zA-Z]*c[a-zA-Z]*", words[position]):
                    yield position + 1
                    break


def _scan(script: str, first: str = "code") -> Iterator[tuple[int, str, str]]:
    """Walk over a shell script; yield (position, character, context).

    A context is code, single or double (between quotes), here (a here-document that the shell expands) or raw (one
    that it does not). Escaped characters and comments are passed over. `$(...)` and backticks are code again.
    """
    contexts, position, waiting = [first], 0, list[re.Match[str]]()
    while position < len(script):
        char, context = script[position], contexts[-1]
        if char == "\\" and context != "single":
            position += 2
            continue
        yield position, char, context
        if context == "single":
            contexts[-1:] = [] if char == "'" else ["single"]
        elif char == "`":
            contexts[-1:] = [] if context == "ticks" else [context, "ticks"]
        elif char == '"' and context != "here":
            contexts[-1:] = [] if context == "double" else [context, "double"]
        elif context in ("double", "here"):
            if script.startswith("$(", position):
                contexts.append("code")
                position += 1
        elif char == "'":
            contexts.append("single")
        elif char == "(":
            contexts.append("code")
        elif char == ")" and len(contexts) > 1:
            contexts.pop()
        elif char == "#" and script[position - 1 : position] in ("", " ", "\t", "\n", ";", "&", "|", "("):
            position = script.find("\n", position) - 1 if "\n" in script[position:] else len(script)
        elif here := _HERE.match(script, position):
            waiting.append(here)
            position = here.end() - 1
        elif char == "\n":
            for here in waiting:
                start, position = position + 1, _end_of_document(here, position + 1)
                body = script[start:position]
                inner = ((at, one, "raw") for at, one in enumerate(body)) if here[2] else _scan(body, "here")
                yield from ((start + at, one, "code" if within == "ticks" else within) for at, one, within in inner)
                position = script.find("\n", position) if "\n" in script[position:] else len(script)
            waiting = []
        position += 1


def _end_of_document(here: re.Match[str], start: int) -> int:
    """Return where the line with the delimiter of a here-document starts, or its script's end."""
    tabs = r"\t*" if here[1] else ""
    end = re.compile(rf"^{tabs}{re.escape(here[3])}$", re.MULTILINE).search(here.string, start)
    return end.start() if end else len(here.string)


def _shell_text(script: str, values: Sequence[str]) -> str:
    """Replace the marks in a shell script by references that expand to exactly one value, whatever it holds."""

    def nested(part: re.Match[str]) -> str:
        if part[2] is not None:  # the inner shell expands the reference: single quotes hide it from the outer one
            inner = _shell_text(part[2], values).replace("'", "'\\''")  # of a value in a here-document
            return f"{part[1]}'{inner}'"
        inner = re.sub(r'\\(["$`\\])', r"\1", part[3])
        references = _references(inner, values)  # hidden from the outer shell by a backslash before what it reads
        hidden = {mark: re.sub(r'(["$`\\])', r"\\\1", reference) for mark, reference in references.items()}
        return part[1] + '"' + _MARK.sub(lambda mark: hidden[mark[0]], part[3]) + '"'

    script = _NESTED.sub(nested, script)
    references = _references(script, values)
    return _MARK.sub(lambda mark: references[mark[0]], script)


def _references(script: str, values: Sequence[str]) -> dict[str, str]:
    """Return what stands in the place of each mark of a shell script. Raises UsageError where nothing fits."""
    contexts = {position: context for position, _, context in _scan(script)}
    found, raw = dict[str, str](), dict[str, str]()
    for mark in _MARK.finditer(script):
        variable = f"${{PENALA_VALUE_{mark[1]}}}"
        context = contexts.get(mark.start(), "code")
        fitting = {"double": variable, "here": variable, "single": f"'\"{variable}\"'"}
        found[mark[0]] = fitting.get(context, f'"{variable}"')
        if context == "raw":
            raw[mark[0]] = values[int(mark[1])]
    filled = _MARK.sub(lambda mark: raw.get(mark[0], mark[0]), script)
    if raw and [char for _, char, context in _scan(filled) if context != "raw"] != [
        char for _, char, context in _scan(script) if context != "raw"
    ]:
        raise UsageError(
            "a value holds the line that ends its here-document", where=script, fix="use another delimiter"
        )
    return found | raw
