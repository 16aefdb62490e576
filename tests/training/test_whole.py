"""Training all weights: the same as a plain loop over transformers, exact after a stop, and written whole."""

import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from penala.tokens.prepared import RowsWriter
from penala.training.batches import IGNORED, epoch_steps, read_documents
from penala.training.loss import loss_of
from penala.training.model import open_whole
from penala.training.schedule import learning_rate_at
from penala.training.settings import FinetuneSettings
from penala.training.trainer import train

WHOLE = FinetuneSettings(
    apply_lora=False,
    num_train_epochs=3,
    per_device_train_batch_size=4,
    learning_rate=0.002,
    precision="32",
    logging_steps=1,
)


def quiet(event: dict) -> None:
    """Report to nobody."""


@pytest.fixture
def prepared(tmp_path) -> Path:
    """A prepared folder with 18 rows whose second half follows from the first."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "template_lock.json").write_text('{"lock": 1}', encoding="utf-8")
    rng = random.Random(0)
    with RowsWriter(folder / "train.arrow") as file:
        for _ in range(18):
            start = rng.randrange(10, 40)
            ids = [start + n for n in range(rng.randrange(6, 14))]
            file.add(ids, [len(ids) // 2, len(ids)])
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def plain_loop(folder: Path, documents_in: Path) -> dict[str, torch.Tensor]:
    """Return the weights after the same steps with nothing but transformers and AdamW, one document at a time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=WHOLE.learning_rate, weight_decay=0.0)
    documents, step = read_documents(documents_in), 0
    for epoch in range(WHOLE.num_train_epochs):
        for numbers in epoch_steps(len(documents), 4, seed=WHOLE.seed, epoch=epoch):
            batch = [documents[number] for number in numbers]
            targets = sum(document.num_supervised for document in batch)
            for document in batch:
                logits = model(torch.tensor([list(document.ids)])).logits[0, :-1]
                labels = torch.tensor(document.labels[1:])
                loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
                (loss / targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rate = learning_rate_at(step, peak=0.002, curve="linear", warmup_steps=0, num_steps=15)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_the_weights_are_those_of_a_plain_loop(prepared, chat_model, tmp_path):
    """Micro-batches, padding and masks change nothing: weights differ by float32 rounding alone."""
    notes: list[dict] = []

    figures = train(prepared, chat_model, tmp_path / "out", WHOLE, notes.append)

    tuned, expected = weights(tmp_path / "out"), plain_loop(chat_model, prepared / "train.arrow")
    base = weights(chat_model)
    for name, tensor in expected.items():
        torch.testing.assert_close(tuned[name], tensor, atol=2e-5, rtol=1e-3)
        assert not torch.equal(tuned[name], base[name]), name
    assert figures["steps"] == 15
    assert not (tmp_path / "out" / "peft_adapter_weights").exists()
    assert (tmp_path / "out" / "template_lock.json").is_file()
    before, after = (loss_of(folder, prepared / "train.arrow", quiet) for folder in (chat_model, tmp_path / "out"))
    assert after.nats < 0.9 * before.nats


@pytest.mark.parametrize("stop_after", [1, 8])
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(prepared, chat_model, tmp_path, stop_after):
    """The checkpoint holds all weights and both moments of each."""
    train(prepared, chat_model, tmp_path / "unbroken", WHOLE, quiet)

    def stop(event: dict) -> None:
        if event["event"] == "metric" and event["name"] == "loss" and event["step"] == stop_after:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(prepared, chat_model, tmp_path / "broken", WHOLE, stop)
    train(prepared, chat_model, tmp_path / "broken", WHOLE, quiet)

    whole, broken = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_tied_head_that_is_stored_twice_is_written_twice(chat_model, tmp_path):
    """Some files hold the tied head a second time: a reader of that one gets the trained weight too."""
    folder = Path(shutil.copytree(chat_model, tmp_path / "twice"))
    stored = load_file(folder / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    model = open_whole(folder, torch.float32)
    with torch.no_grad():
        model.adapter["model.embed_tokens.weight"].add_(1)

    assert "lm_head.weight" in model.adapted - model.adapter.keys()
    assert torch.equal(model.tuned("lm_head.weight", stored["lm_head.weight"]), stored["lm_head.weight"] + 1)


def test_products_may_be_bfloat16_while_the_weights_are_not(prepared, chat_model):
    """In mixed precision the loss is near, the weights to train stay float32, and each gets a gradient."""
    documents = read_documents(prepared / "train.arrow")[:4]
    exact, mixed = (open_whole(chat_model, dtype) for dtype in (torch.float32, torch.bfloat16))

    wanted, found = (model.loss_sum(documents, training=False) for model in (exact, mixed))
    found.backward()

    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0)
    assert found != wanted
    assert all(weight.dtype == torch.float32 and weight.grad is not None for weight in mixed.adapter.values())
