"""The training loop: what it leaves, that it can stop anywhere, and how it fails."""

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from penala.errors import TrainingError
from penala.tokens.prepared import RowsWriter
from penala.training import checkpoints
from penala.training.batches import read_documents
from penala.training.loss import loss_of
from penala.training.settings import FinetuneSettings
from penala.training.trainer import train

SETTINGS = FinetuneSettings(
    num_train_epochs=3, per_device_train_batch_size=4, learning_rate=0.02, lora_r=4, lora_alpha=8, logging_steps=1
)


def quiet(event: dict) -> None:
    """Report to nobody."""


def write_split(path: Path, rows: int, *, seed: int = 0) -> None:
    """Write rows whose second half is supervised and follows from the first: it can be learned."""
    rng = random.Random(seed)
    with RowsWriter(path) as file:
        for _ in range(rows):
            start = rng.randrange(10, 40)
            ids = [start + n for n in range(rng.randrange(6, 14))]
            file.add(ids, [len(ids) // 2, len(ids)])


@pytest.fixture
def prepared(tmp_path) -> Path:
    """A prepared folder with 18 rows to train on and 5 to validate."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    write_split(folder / "train.arrow", 18)
    write_split(folder / "validation.arrow", 5, seed=1)
    (folder / "template_lock.json").write_text('{"lock": 1}', encoding="utf-8")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_training_lowers_the_loss_and_says_how(prepared, chat_model, tmp_path):
    """The tuned model fits the rows better than its base, and the figures are those of the loop."""
    before = loss_of(chat_model, prepared / "train.arrow", quiet)

    figures = train(prepared, chat_model, tmp_path / "out", SETTINGS, quiet)
    after = loss_of(tmp_path / "out", prepared / "train.arrow", quiet)

    assert after.tokens == before.tokens
    assert after.nats < 0.8 * before.nats
    assert figures["steps"] == 15
    assert figures["effective_batch"] == 4
    tokens = sum(map(len, read_documents(prepared / "train.arrow")))
    assert figures["tokens"] == 3 * tokens
    assert figures["loss"] < before.nats / before.tokens
    assert figures["peak_memory_bytes"] > 1e7


def test_the_output_is_a_whole_model_and_an_adapter_that_peft_loads(prepared, chat_model, tmp_path):
    """Merged weights and base + adapter give the same logits; 1e-4 is float32 rounding at logits of about 30."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    train(prepared, chat_model, out, SETTINGS, quiet)

    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, out / "peft_adapter_weights")
    ids = torch.tensor([[11, 12, 13, 14]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
    assert (out / "template_lock.json").read_text(encoding="utf-8") == '{"lock": 1}'
    assert (out / "tokenizer.json").is_file()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("stop_after", [1, 5, 14])
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(prepared, chat_model, tmp_path, stop_after, dropout):
    """SIGTERM at any step leaves a checkpoint; going on from it gives the same bits, dropout included."""
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "lora_dropout": dropout})
    train(prepared, chat_model, tmp_path / "unbroken", settings, quiet)

    def stop(event: dict) -> None:
        if event["event"] == "metric" and event["name"] == "loss" and event["step"] == stop_after:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        train(prepared, chat_model, tmp_path / "broken", settings, stop)
    notes: list[str] = []
    figures = train(prepared, chat_model, tmp_path / "broken", settings, lambda event: notes.append(str(event)))

    assert stopped.value.code == 143
    assert any(f"going on after step {stop_after} of 15" in note for note in notes)
    assert figures["steps"] == 15
    assert_same_weights(tmp_path / "broken", tmp_path / "unbroken")


def _inputs(settings: FinetuneSettings) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(settings)


def test_the_outputs_of_two_runs_are_the_same_bytes(prepared, chat_model, tmp_path):
    """No time, name or random id lies in the output folder: a step's digest is that of its inputs."""
    for name in ("one", "two"):
        train(prepared, chat_model, tmp_path / name, SETTINGS, quiet)

    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file()
    )
    assert [
        path for path in files if (tmp_path / "one" / path).read_bytes() != (tmp_path / "two" / path).read_bytes()
    ] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 1, "number_of_gpu_to_use_finetuning": 2, "num_nodes_finetune": 2},
    ],
)
def test_accumulation_and_devices_are_a_larger_batch(prepared, chat_model, tmp_path, changes):
    """Batch 4, 2 accumulated twice, and 1 on 4 devices take the same optimizer steps."""
    split = FinetuneSettings.from_inputs({**_inputs(SETTINGS), **changes})
    train(prepared, chat_model, tmp_path / "whole", SETTINGS, quiet)
    train(prepared, chat_model, tmp_path / "split", split, quiet)

    assert_same_weights(tmp_path / "split", tmp_path / "whole")


def test_small_micro_batches_change_nothing_but_rounding(prepared, chat_model, tmp_path, monkeypatch):
    """Cutting a step into micro-batches, with layers run again, ends at the same loss; 1e-4 is float32 rounding."""
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "precision": "32"})
    whole = train(prepared, chat_model, tmp_path / "whole", settings, quiet)
    monkeypatch.setattr("penala.training.estimate.SMALLEST_MICRO_BATCH", 8)
    monkeypatch.setattr("penala.training.estimate.ACTIVATION_BYTES", 1.0)
    cut = train(prepared, chat_model, tmp_path / "cut", settings, quiet)

    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert cut["loss"] != whole["loss"]  # the other path was taken


@pytest.mark.parametrize(
    ("limit", "kept"), [(-1, ["checkpoint-10", "checkpoint-15", "checkpoint-5"]), (1, ["checkpoint-15"])]
)
def test_save_total_limit_keeps_the_newest_checkpoints(prepared, chat_model, tmp_path, limit, kept):
    """One checkpoint an evaluation; -1 keeps all, and nothing of an unfinished run stays."""
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "save_total_limit": limit})
    train(prepared, chat_model, tmp_path / "out", settings, quiet)

    assert sorted(path.name for path in (tmp_path / "out").glob("*checkpoint-*")) == kept


def test_max_steps_wins_over_epochs(prepared, chat_model, tmp_path):
    """The run ends in the middle of an epoch when max_steps says so."""
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "max_steps": 7})

    assert train(prepared, chat_model, tmp_path / "out", settings, quiet)["steps"] == 7


def test_progress_ends_at_the_last_step_with_speed_and_time_left(prepared, chat_model, tmp_path):
    """A person who watches always sees the end."""
    events: list[dict] = []
    train(prepared, chat_model, tmp_path / "out", SETTINGS, events.append)

    progress = [event for event in events if event["event"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["eta_s"]) == (15, 15, 0)
    assert progress[-1]["tokens_per_s"] > 0
    evaluated = [event["step"] for event in events if event["event"] == "metric" and event["name"] == "eval_loss"]
    assert evaluated == [0, 5, 10, 15]
    assert any("about" in event["text"] and "GB" in event["text"] for event in events if event["event"] == "note")


def test_a_half_checkpoint_is_passed_over(tmp_path):
    """Only a checkpoint whose marker was written counts."""
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "progress.json").write_text(json.dumps({"step": step}), encoding="utf-8")
    (tmp_path / "checkpoint-5" / checkpoints.MARKER).touch()

    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-5"


def test_a_disk_that_is_full_leaves_no_half_checkpoint(prepared, chat_model, tmp_path, monkeypatch):
    """The message says what to do, and the folder holds what it held."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"No space left on device; make room on the disk and run the same command"):
        train(prepared, chat_model, tmp_path / "out", SETTINGS, quiet)

    assert list((tmp_path / "out").iterdir()) == []


def test_a_loss_that_is_no_number_names_the_step(prepared, chat_model, tmp_path):
    """A model with broken weights does not train on in silence."""
    from safetensors.torch import save_file

    broken = tmp_path / "broken"
    shutil.copytree(chat_model, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(TrainingError, match="the loss of step 1 is nan; lower learning_rate"):
        train(prepared, broken, tmp_path / "out", SETTINGS, quiet)


def test_what_cannot_fit_in_memory_is_refused_with_both_numbers(prepared, chat_model, tmp_path, monkeypatch):
    """The refusal comes before the weights are loaded."""
    monkeypatch.setattr("penala.training.trainer.memory_available", lambda: 5e8)

    with pytest.raises(TrainingError, match=r"needs about \d\.\d GB of memory, and 0\.5 GB are free; choose a smaller"):
        train(prepared, chat_model, tmp_path / "out", SETTINGS, quiet)


def test_deepspeed_on_one_process_is_said_and_skipped(prepared, chat_model, tmp_path):
    """The publisher's apply_deepspeed does no harm here, and is not silent."""
    notes: list[str] = []
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "apply_deepspeed": "true", "max_steps": 1})
    train(prepared, chat_model, tmp_path / "out", settings, lambda event: notes.append(str(event)))

    assert any("DeepSpeed stage 2 is skipped" in note for note in notes)


def test_a_model_that_the_fast_path_does_not_know_trains_all_the_same(prepared, tmp_path):
    """A tiny Phi-3 and a tiny Qwen3 go through transformers and PEFT, and learn."""
    from transformers import Phi3Config, Phi3ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    families = {
        "phi3": (Phi3ForCausalLM, Phi3Config(**sizes)),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**sizes, head_dim=8)),
    }
    for name, (family, config) in families.items():
        torch.manual_seed(0)
        family(config).save_pretrained(tmp_path / name)
        notes: list[str] = []
        out = tmp_path / f"{name}-out"
        train(prepared, tmp_path / name, out, SETTINGS, lambda event, notes=notes: notes.append(str(event)))

        assert any("transformers and PEFT train it" in note for note in notes)
        before = loss_of(tmp_path / name, prepared / "train.arrow", quiet)
        assert loss_of(out, prepared / "train.arrow", quiet).nats < 0.95 * before.nats


def test_a_checkpoint_of_another_run_is_not_gone_on_from(prepared, chat_model, tmp_path):
    """Other settings in the same folder are refused, instead of mixing two runs or forgetting what was asked."""
    out = tmp_path / "out"
    train(prepared, chat_model, out, FinetuneSettings.from_inputs({**_inputs(SETTINGS), "max_steps": 2}), quiet)

    with pytest.raises(TrainingError, match="of a run with other settings, other data or another base model; empty"):
        train(prepared, chat_model, out, SETTINGS, quiet)


def test_a_checkpoint_of_another_template_lock_is_not_gone_on_from(prepared, chat_model, tmp_path):
    """Each checkpoint holds the lock of the data, and data of another lock is refused, the same ids or not."""
    out = tmp_path / "out"
    train(prepared, chat_model, out, SETTINGS, quiet)
    locks = [folder / "template_lock.json" for folder in out.glob("checkpoint-*")]
    assert {lock.read_text(encoding="utf-8") for lock in locks} == {'{"lock": 1}'}

    (prepared / "template_lock.json").write_text('{"lock": 2}', encoding="utf-8")
    with pytest.raises(TrainingError, match=r"made with another template lock than the prepared data: .*empty"):
        train(prepared, chat_model, out, SETTINGS, quiet)


def test_the_cut_of_evaluation_changes_no_loss(prepared, chat_model, tmp_path):
    """per_device_eval_batch_size bounds what is laid out at once, no more."""
    losses = []
    for size in (1, 16):
        settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "per_device_eval_batch_size": size})
        losses.append(train(prepared, chat_model, tmp_path / f"out-{size}", settings, quiet)["eval_loss"])

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"evaluation_strategy": "disable"}, []),
        ({"evaluation_strategy": "steps", "eval_steps": 4}, [0, 4, 8, 12, 15]),
    ],
)
def test_evaluation_comes_when_it_is_due(prepared, chat_model, tmp_path, changes, steps):
    """Before the first step, at each interval, and at the end; or never."""
    events: list[dict] = []
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), **changes})
    train(prepared, chat_model, tmp_path / "out", settings, events.append)

    assert [event["step"] for event in events if event.get("name") == "eval_loss"] == steps


def test_metrics_come_by_logging_steps_and_average_what_lies_between(prepared, chat_model, tmp_path):
    """At 6, 12 and the last step; the rate is the one that was used. Notebooks know the training run by its epoch."""
    events: list[dict] = []
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "logging_steps": 6})
    train(prepared, chat_model, tmp_path / "out", settings, events.append)

    logged = {event["step"]: event["value"] for event in events if event.get("name") == "learning_rate"}
    assert logged == pytest.approx({6: 0.02 * 10 / 15, 12: 0.02 * 4 / 15, 15: 0.02 * 1 / 15})
    names = [event["name"] for event in events if event["event"] == "metric" and event["name"] != "eval_loss"]
    assert names == ["loss", "learning_rate", "grad_norm", "epoch"] * 3
    assert [event["value"] for event in events if event.get("name") == "epoch"] == pytest.approx([1.2, 2.4, 3])


def test_the_loss_of_a_run_is_that_of_its_last_epoch(prepared, chat_model, tmp_path):
    """Logged by epochs, each value is the mean over its own epoch, and the last one is the run's figure."""
    events: list[dict] = []
    settings = FinetuneSettings.from_inputs({**_inputs(SETTINGS), "logging_strategy": "epoch"})
    figures = train(prepared, chat_model, tmp_path / "out", settings, events.append)

    losses = {event["step"]: event["value"] for event in events if event.get("name") == "loss"}
    assert list(losses) == [5, 10, 15]
    assert figures["loss"] == pytest.approx(losses[15], rel=1e-12)
    assert figures["loss"] < losses[5]


def test_a_gradient_that_is_no_number_spoils_no_checkpoint(prepared, chat_model, tmp_path, monkeypatch):
    """The step is refused before the optimizer takes it."""
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))

    with pytest.raises(TrainingError, match="the gradient norm of step 1 is inf"):
        train(prepared, chat_model, tmp_path / "out", SETTINGS, quiet)

    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_is_full_at_the_end_keeps_the_checkpoint(prepared, chat_model, tmp_path, monkeypatch):
    """The second try only writes the model."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("penala.training.output.save_file", full)
        with pytest.raises(TrainingError, match="the tuned model cannot be written: No space left on device"):
            train(prepared, chat_model, tmp_path / "out", SETTINGS, quiet)
    notes: list[str] = []
    figures = train(prepared, chat_model, tmp_path / "out", SETTINGS, lambda event: notes.append(str(event)))

    assert any("going on after step 15 of 15" in note for note in notes)
    assert figures["eval_loss"] is not None
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_output_that_is_no_folder_is_refused(prepared, chat_model, tmp_path):
    """Before anything is loaded."""
    (tmp_path / "out").write_text("")

    with pytest.raises(TrainingError, match="out: cannot be made: File exists"):
        train(prepared, chat_model, tmp_path / "out", SETTINGS, quiet)
