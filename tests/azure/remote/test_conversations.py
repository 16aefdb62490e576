"""What is uploaded: the recipe's own file where Azure can read it, else what a local run would have made of it."""

import json

import pytest

pytestmark = pytest.mark.slow


def uploaded(azure):
    """Return the uploaded files by name."""
    return {blob.rpartition("/")[2]: data for blob, (data, _) in azure.blobs.items() if "LocalUpload" in blob}


def inputs(azure):
    """Return the data inputs of the job that was sent."""
    (job,) = azure.proxy.sent("PUT", "/jobs/")
    sent = job.json["properties"]["jobs"]["chat_completion_pipeline"]["inputs"]
    return {name: one["uri"].rpartition("/")[2] for name, one in sent.items() if name.endswith("_file_path")}


def test_a_file_of_messages_goes_as_it_is(azure, recipe, on_azure, place):
    """No byte of it is changed."""
    code, _, err = on_azure("--no-deploy")

    assert code == 0, err
    assert uploaded(azure) == {"train.jsonl": (place / "data" / "train.jsonl").read_bytes()}


def test_another_schema_is_written_as_messages(azure, recipe, on_azure, place):
    """Azure's component reads `messages` only; the splits are cut here, as a local run cuts them."""
    turns = [{"from": "human", "value": "Teh?"}, {"from": "gpt", "value": "Tarik."}]
    lines = [json.dumps({"conversations": turns, "n": n}) for n in range(20)]
    (place / "data" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")

    code, _, err = on_azure("--no-deploy")

    assert code == 0, err
    rows = {name: [json.loads(line) for line in data.splitlines()] for name, data in uploaded(azure).items()}
    assert {name: len(found) for name, found in rows.items()} == {
        "train.jsonl": 16,
        "validation.jsonl": 2,
        "test.jsonl": 2,
    }
    assert rows["train.jsonl"][0]["messages"] == [
        {"role": "user", "content": "Teh?"},
        {"role": "assistant", "content": "Tarik."},
    ]
    assert inputs(azure) == {f"{split}_file_path": f"{split}.jsonl" for split in ("train", "validation", "test")}


def test_what_is_written_for_our_components_is_read_as_messages(azure, recipe, on_azure, place):
    """Several files of another schema become one of messages, and the job says so."""
    turns = [{"from": "human", "value": "Teh?"}, {"from": "gpt", "value": "Tarik."}]
    (place / "data" / "more").mkdir()
    for name in ("a", "b"):
        rows = "".join([json.dumps({"talk": turns}) + "\n"] * 10)
        (place / "data" / "more" / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    recipe(conversations={"train": "data/more", "schema": "sharegpt", "columns": {"conversations": "talk"}})

    code, _, err = on_azure("--no-deploy", "--components", "penala")

    assert code == 0, err
    (data,) = (data for name, data in uploaded(azure).items() if name == "train.jsonl")
    assert json.loads(data.splitlines()[0])["messages"][1] == {"role": "assistant", "content": "Tarik."}
    (job,) = azure.proxy.sent("PUT", "/jobs/")
    sent = job.json["properties"]["jobs"]["chat_completion_pipeline"]["inputs"]
    assert sent["conversation_schema"]["value"] == "messages"
    assert "column_mapping" not in sent


def test_a_share_of_train_is_cut_here(azure, recipe, on_azure):
    """Azure's component has no input for a share."""
    recipe(conversations={"train": "data/train.jsonl", "validation": "10%", "test": "5%"})

    code, _, err = on_azure("--no-deploy")

    assert code == 0, err
    counts = {name: len(data.splitlines()) for name, data in uploaded(azure).items()}
    assert counts == {"train.jsonl": 10, "validation.jsonl": 1, "test.jsonl": 1}


def test_bad_rows_that_the_recipe_drops_are_not_sent(azure, recipe, on_azure, place):
    """on_bad_row: drop holds on Azure too."""
    file = place / "data" / "train.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + '{"messages": []}\n', encoding="utf-8")
    recipe(conversations={"train": "data/train.jsonl", "on_bad_row": "drop", "validation": "data/train.jsonl"})

    code, _, err = on_azure("--no-deploy")

    assert code == 0, err
    assert b'"messages": []' not in b"".join(uploaded(azure).values())


def test_splits_that_are_too_small_stop_before_anything_is_made(azure, recipe, on_azure):
    """A share that leaves fewer than ten rows to train on is found before the cluster is asked for."""
    recipe(conversations={"train": "data/train.jsonl", "validation": "40%", "test": "5%"})

    code, result, _ = on_azure()

    assert code == 1
    assert "rows are left to train on, fewer than 10" in result["error"]
    assert azure.proxy.sent("PUT", ".") == []


def test_the_forgetting_questions_go_along(azure, recipe, on_azure, place):
    """Our own components ask them before and after."""
    questions = place / "unrelated.jsonl"
    questions.write_text('{"messages": [{"role": "user", "content": "2 + 2?"}]}\n', encoding="utf-8")
    recipe(evaluation={"forgetting": "unrelated.jsonl"})

    code, _, err = on_azure("--no-deploy", "--components", "penala")

    assert code == 0, err
    assert uploaded(azure)["unrelated.jsonl"] == questions.read_bytes()
    assert inputs(azure)["forgetting_file_path"] == "unrelated.jsonl"


def test_a_data_asset_of_the_workspace_is_named_not_sent(azure, recipe, on_azure):
    """azureml:NAME:VERSION lies in Azure already."""
    azure.keep_data("chats", "2")
    recipe(conversations={"train": "azureml:chats:2"})

    code, _, err = on_azure("--no-deploy")

    assert code == 0, err
    assert uploaded(azure) == {}
    assert "train: azureml:chats:2 lies in Azure; its rows are not checked here" in err


def test_a_folder_of_weights_is_uploaded(azure, recipe, on_azure, place, chat_model):
    """A base model on this machine travels with the job, and needs no entry in a registry."""
    recipe(base_model=str(chat_model))

    code, _, err = on_azure("--no-deploy")

    assert code == 0, err
    assert "model.safetensors" in uploaded(azure)
