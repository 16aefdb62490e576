"""A package in the hands of MLflow itself, in a process that has no penala. Slow: MLflow, torch and transformers."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from penala.conversations.conversation import Message

pytestmark = pytest.mark.slow

WITHOUT_PENALA = """
import importlib.machinery, json, sys, warnings
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.split(".")[0] in {"penala", "peft", "accelerate"}  # requirements.txt names none of them
        return None if missing else super().find_spec(name, path, target)
sys.meta_path[:] = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
warnings.simplefilter("ignore")
import mlflow
"""
ASK = """
import pandas
from mlflow.models.utils import load_serving_example
model = mlflow.pyfunc.load_model(folder)
question = {"messages": [{"role": "user", "content": "kopi?"}], "max_tokens": 8}
(answer,) = model.predict(question)
def said(**more):
    (answer,) = model.predict(question | more)
    return [answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]]
def refusal(data):
    try:
        model.predict(data)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
table = {"messages": [[{"role": "user", "content": text}] for text in ("kopi", "teh")], "max_tokens": 2}
text = answer["choices"][0]["message"]["content"]
print(json.dumps({
    "answer": answer,
    "inputs": model.metadata.get_input_schema().input_names(),
    "example": json.loads(load_serving_example(folder)),
    "task": model.metadata.metadata["task"],
    "table": len(model.predict(pandas.DataFrame(table))),
    "seeded": [said(temperature=1.5, seed=3), said(temperature=1.5, seed=3)],
    "stopped": said(stop=[text[1]]),
    "wrong shape": refusal({"message": []}),
    "spelled": refusal({"messages": [{"role": "user", "content": "a<|im_end|>b"}]}),
    "pipeline": type(mlflow.transformers.load_model(folder)).__name__,
    "penala": "penala" in sys.modules,
}))
"""


def run(package, code) -> Any:
    """Run code with `folder` as the package; return the JSON that it printed, or its error's last line."""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    script = f"{WITHOUT_PENALA}\nfolder = {str(package)!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=package, env=env)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def found(one_package) -> dict[str, Any]:
    """What plain MLflow made of a package."""
    result = run(one_package, ASK)
    assert isinstance(result, dict), result
    return result


def test_plain_mlflow_answers_like_our_own_engine(one_package, found):
    """pyfunc's reply is, token for token, the engine's greedy one; it needs no penala."""
    import torch

    from penala.engines.engine import Generation
    from penala.engines.transformers_engine import open_engine
    from penala.tokens.chat_tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.from_folder(one_package / "model")
    engine = open_engine(one_package / "model", dtype=torch.float32)
    prompt = tuple(tokenizer.prompt([Message("user", "kopi?")]))
    (ours,) = engine.generate([Generation(prompt, 8, tokenizer.end_ids)])

    (choice,) = found["answer"]["choices"]
    assert choice["message"] == {"role": "assistant", "content": tokenizer.parse_reply(ours.ids).content}
    assert choice["finish_reason"] == ours.finish_reason
    used = {"prompt_tokens": len(prompt), "completion_tokens": len(ours.ids), "total_tokens": len(prompt + ours.ids)}
    assert found["answer"]["usage"] == used
    assert not found["penala"]


def test_mlflow_reads_signature_example_and_metadata(one_package, found):
    """Another shape than the signature's is refused; the rows of a table are answered one by one."""
    assert found["inputs"] == ["messages", "temperature", "top_p", "max_tokens", "stop", "seed"]
    assert found["example"] == json.loads((one_package / "input_example.json").read_text())
    assert (found["task"], found["table"]) == ("llm/v1/chat", 2)
    assert found["wrong shape"].startswith("MlflowException: Failed to enforce schema")


def test_sampling_is_repeatable_with_a_seed(found):
    """The same seed gives the same text."""
    first, second = found["seeded"]

    assert first == second


def test_a_stop_string_ends_the_reply_and_is_no_part_of_it(found):
    """The text ends before it, for the reason "stop"."""
    text = found["answer"]["choices"][0]["message"]["content"]

    assert found["stopped"] == [text[: text.index(text[1])], "stop"]


def test_the_transformers_flavour_loads_as_a_pipeline(found):
    """What Azure's import step and mlflow.transformers take."""
    assert found["pipeline"] == "TextGenerationPipeline"


def test_a_message_that_spells_a_special_token_is_refused(found):
    """Plain transformers would let it end the message; penala's own endpoint keeps it as text."""
    assert found["spelled"].endswith("spells the special token <|im_end|>, which cannot be kept as text here")


def test_plain_mlflow_refuses_another_template_than_the_trained_one(package):
    """The lock travels with the package and is checked on loading."""
    path = package / "model" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["chat_template"] = settings["chat_template"].replace("assistant\n", "assistant: ")
    path.unlink()  # it is linked
    path.write_text(json.dumps(settings))

    error = run(package, "mlflow.pyfunc.load_model(folder)")

    assert error.startswith("ValueError: template_lock.json: golden rendering 2 reads ")


def test_golden_renderings_are_told_the_same_time():
    """A template that asks for the date is checked with the date that the lock was made with."""
    from penala.package.weights import LOCKED_AT
    from penala.tokens.lock import NOW

    assert LOCKED_AT == NOW
