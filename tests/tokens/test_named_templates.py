"""Models with several chat templates: what is kept on the way to the endpoint, and which one serves a conversation."""

import json
import shutil

import pyarrow
import pytest

from penala.basemodel.importing import import_model
from penala.package.write import write_package
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.lock import FILE, TemplateLock
from penala.tokens.prepare import PrepareSettings, prepare
from penala.tokens.template import ChatTemplate

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"default": TURNS, "tool_use": "<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n" + TURNS, "rag": "rag"}
TOOL = {"type": "function", "function": {"name": "price", "description": "Harga", "parameters": {}}}
ASKED = (("user", "Price?"), ("assistant", "RM 2."))


@pytest.fixture(params=["files", "list"])
def model(request, chat_model, tmp_path):
    """A model folder with three templates, as files or in tokenizer_config.json: the two ways of transformers."""
    folder = shutil.copytree(chat_model, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": name, "template": source} for name, source in TEMPLATES.items()]
    if request.param == "files":
        config["chat_template"] = "an older one"
        more = folder / "additional_chat_templates"
        more.mkdir()
        (folder / "chat_template.jinja").write_text(TEMPLATES["default"])
        for name in ("tool_use", "rag"):
            (more / f"{name}.jinja").write_text(TEMPLATES[name])
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_each_conversation_has_the_template_that_transformers_takes(model, conversation):
    """tool_use with tools, default without; the text is that of transformers."""
    from transformers import AutoTokenizer

    tokenizer, other = ChatTokenizer.from_folder(model), AutoTokenizer.from_pretrained(model)
    row = conversation(*ASKED)
    messages = [message.as_dict() for message in row.messages]

    assert tokenizer.template.sources == TEMPLATES
    for tools in (None, [TOOL]):
        text = tokenizer.render(row.messages, tools=tools)
        assert text == other.apply_chat_template(messages, tools=tools, tokenize=False)
        assert ("Harga" in text) == (tools is not None)


def test_arguments_stay_text_for_a_tool_template_that_writes_texts():
    """The default template writes no call, and says nothing about what "tool_use" takes."""
    call = {"type": "function", "function": {"name": "price", "arguments": '{"dish":"kaya"}'}}
    calls = "{% for call in m.tool_calls %}{{ call.function.arguments }}{% endfor %}"
    source = TEMPLATES["tool_use"].replace("{{ m.content }}", calls)
    template = ChatTemplate({"default": TURNS, "tool_use": source}, {})

    text = template.render([{"role": "assistant", "content": "", "tool_calls": [call]}], tools=[TOOL])
    assert '{"dish":"kaya"}' in text


def test_named_templates_travel_from_import_to_package(model, conversation, tmp_path):
    """Imported, prepared, locked and packaged, a row with tools is still asked with tool_use."""
    rows = [conversation(*ASKED, tools=(TOOL,)), conversation(*ASKED)]
    splits = type("Splits", (), {"train": rows, "validation": [], "test": [], "held_out": (), "bad_rows": {}})
    splits.rows_in = 2
    imported, prepared, package = (tmp_path / name for name in ("imported", "prepared", "package"))
    expected = ChatTokenizer.from_folder(model).prompt(rows[0].messages[:1], tools=[TOOL])

    import_model(model, imported, tmp_path / "cache", lambda event: None)
    prepare(splits, imported, prepared, PrepareSettings(), lambda event: None)
    shutil.copyfile(prepared / FILE, imported / FILE)  # as training leaves it beside the weights
    write_package(imported, package, report=lambda event: None)

    for folder in (imported, prepared, package / "model"):
        assert ChatTokenizer.from_folder(folder).prompt(rows[0].messages[:1], tools=[TOOL]) == expected
        TemplateLock.load(prepared / FILE).verify(folder)
    assert (package / FILE).read_bytes() == (package / "model" / FILE).read_bytes() == (prepared / FILE).read_bytes()
    lines = pyarrow.ipc.open_file(prepared / "train.arrow").read_all().to_pylist()
    places = [line["supervised"] for line in lines]
    replies = [line["input_ids"][at[-2] : at[-1]] for line, at in zip(lines, places, strict=True)]
    assert lines[0]["input_ids"][: len(expected)] == expected
    assert replies[0] == replies[1] != []
    assert len(places[0]) == len(places[1])
    assert len(lines[0]["input_ids"]) > len(lines[1]["input_ids"])
