"""Command templates: every value arrives verbatim, whatever it holds and whoever reads the text around it."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penala.errors import UsageError
from penala.workspace.commands import placeholders, render

HOSTILE = [
    "plain",
    "",
    " two  spaces ",
    'it\'s "quoted"',
    "$(touch pwned) `touch pwned` ${HOME} $HOME",
    "a\nb\n",
    "; touch pwned & | > pwned #",
    "* ? [a-z] {a,b} ~ !",
    "back\\slash \\n",
    "--flag",
    "${{inputs.other}} $[[x]]",
    "日本語 é \u200b",
]
PRINT = """python -I -S -c "import sys; print(ascii(sys.argv[1:]))" """


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${{inputs.x}}", "{}"),
        ("'${{inputs.x}}'", "{}"),
        ('--x="a ${{ inputs.x }}"', "--x=a {}"),
    ],
)
def test_without_a_shell_a_value_is_one_argument(template: str, expected: str, value: str) -> None:
    """A value is (a part of) one argument, with or without quotes around its place."""
    command = render("prog " + template + " end", {"inputs.x": value})

    assert command.argv == ["prog", expected.replace("{}", value), "end"]
    assert command.env == {}


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_is_one_argument(value: str) -> None:
    """No text at all becomes anything but itself."""
    assert render("a ${{inputs.x}} '${{inputs.x}}'", {"inputs.x": value}).argv == ["a", value, value]


@pytest.mark.parametrize(
    "template",
    [
        PRINT + "${{inputs.x}} | cat",
        PRINT + "'${{inputs.x}}' ; true # don't",
        PRINT + '"${{inputs.x}}" && true',
        "# don't\n" + PRINT + "${{inputs.x}}",
        'echo "$(' + PRINT + ' ${{inputs.x}})"',
        "X=${{inputs.x}}; " + PRINT + '"$X"',
        "bash -c '" + PRINT + "${{inputs.x}}'",
        "bash -c '" + PRINT + '"${{inputs.x}}"\'',
        '/bin/sh -ec "' + PRINT.replace('"', '\\"') + "'${{inputs.x}}'\"",
        "true && bash -c '" + PRINT + "${{inputs.x}}'",
        "cat <(" + PRINT + "${{inputs.x}})",
        'true && bash -c "' + PRINT.replace('"', '\\"') + "'${{inputs.x}}'\"",
        'true && sh -c "' + PRINT.replace('"', '\\"') + '${{inputs.x}}"',
        'echo "`' + PRINT + ' ${{inputs.x}}`"',
        "cat <<EOF\n$(" + PRINT + "${{inputs.x}})\nEOF",
        "cat > /dev/null <<-'END'; " + PRINT + "${{inputs.x}}\n\tdon't ${{inputs.x}} $(\n\tEND\ntrue",
    ],
)
def test_with_a_shell_a_value_is_one_argument(template: str, tmp_path: "os.PathLike[str]") -> None:
    """Whatever a shell makes of the text around it, the program gets each value as it was given."""
    for value in HOSTILE:
        command = render(template, {"inputs.x": value})
        path = {"PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
        ran = subprocess.run(
            command.argv, env={**os.environ, **path, **command.env}, cwd=tmp_path, capture_output=True, text=True
        )

        assert ran.stdout == f"[{value!a}]\n", ran.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("start", ["<<EOF", "<<-EOF", "<< 'EOF'", '<<"EOF"', "<<\\EOF"])
def test_a_here_document_holds_each_value_as_it_is(start: str, value: str) -> None:
    """A shell expands it unless the delimiter is quoted; around it the quotes of its text mean nothing."""
    command = render(f"cat {start} && echo ${{{{inputs.x}}}}\nit's <${{{{inputs.x}}}}>\nEOF\n", {"inputs.x": value})
    ran = subprocess.run(command.argv, env={**os.environ, **command.env}, capture_output=True, text=True)

    assert ran.stdout == f"it's <{value}>\n{value}\n", ran.stderr


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(("quote", "delimiter"), [("'", '"EOF"'), ("'", "EOF"), ('"', "'EOF'"), ('"', "EOF")])
def test_a_here_document_may_stand_in_a_nested_script(quote: str, delimiter: str, value: str) -> None:
    """Whatever quotes the outer shell takes off first."""
    template = f"true; bash -c {quote}cat <<{delimiter}\n${{{{inputs.x}}}}\nEOF\n{quote}"
    command = render(template, {"inputs.x": value})
    ran = subprocess.run(command.argv, env={**os.environ, **command.env}, capture_output=True, text=True)

    assert ran.stdout == f"{value}\n", ran.stderr


@pytest.mark.parametrize("value", ["a\nEOF\ntouch pwned", "a\nEOF", "EOF\n"])
def test_a_value_does_not_end_its_here_document(value: str) -> None:
    """The shell would run what follows."""
    with pytest.raises(UsageError, match="holds the line that ends its here-document"):
        render("cat <<'EOF'\n${{inputs.x}}\nEOF", {"inputs.x": value})


def test_a_name_may_hold_hyphens_and_dots() -> None:
    """As in Azure ML's own placeholders."""
    assert render("a ${{inputs.my-x.y}}", {"inputs.my-x.y": "1"}).argv == ["a", "1"]


def test_parts_without_their_values_are_left_out() -> None:
    """An optional part is there with all of its values, and gone without one."""
    template = "prog $[[--a ${{inputs.a}}]] $[[--b ${{inputs.b}} ${{inputs.a}}]] --c ${{outputs.c}}"

    assert render(template, {"inputs.a": "1", "outputs.c": "o"}).argv == ["prog", "--a", "1", "--c", "o"]
    assert placeholders(template) == ({"outputs.c"}, {"inputs.a", "inputs.b"}, set())


def test_continued_lines_are_one_line() -> None:
    """As in a shell, whether one is needed or not; between single quotes they stay."""
    words = ["prog", "--a", "it's", "--b", "2"]
    assert render("prog \\\n  --a ${{inputs.a}} \\\r\n  --b 2", {"inputs.a": "it's"}).argv == words
    script = "printf %s \\\n  'a\\\nb'"
    ran = subprocess.run(render(script, {}).argv, capture_output=True, text=True)
    assert ran.stdout == "a\\\nb"


@pytest.mark.parametrize("template", ["exit 3", "cd ..", "export A=1", ". ./file", "source file", "ulimit -n"])
def test_what_only_a_shell_knows_goes_to_one(template: str) -> None:
    """There is no program called exit."""
    assert render(template, {}).argv == ["bash", "-c", template]


def test_python_is_the_one_that_runs_penala() -> None:
    """A step runs in the same environment as penala, whatever is first in PATH."""
    assert render("python -m x", {}).argv == [sys.executable, "-m", "x"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("prog ${{inputs.x}}", "needs inputs.x, which has no value"),
        ("prog 'open", "cannot be read: No closing quotation"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(template: str, message: str) -> None:
    """Rather a refusal than a command that means something else."""
    with pytest.raises(UsageError, match=message):
        render(template, {"inputs.y": "1"})
