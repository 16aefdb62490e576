"""The training loop: optimizer steps over whole batches of conversations, checkpoints, and a resume that is exact."""

import math
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from penala.basemodel.folder import count_parameters, read_json
from penala.errors import TrainingError
from penala.training import checkpoints
from penala.training.batches import Document, epoch_steps, micro_batches, read_documents
from penala.training.estimate import (
    ACTIVATION_BYTES,
    Sizes,
    bytes_a_number,
    memory_available,
    memory_needed,
    seconds_needed,
)
from penala.training.loss import loss_on
from penala.training.model import Model, arithmetic, lora_spec, open_model
from penala.training.output import write_model
from penala.training.schedule import learning_rate_at
from penala.training.settings import FinetuneSettings

Report = Callable[[dict[str, Any]], None]

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_ROLLING = 30.0  # when a rolling checkpoint is written changes no number of the run
SMALLEST_MICRO_BATCH = 256  # tokens
TERMINATED = 128 + signal.SIGTERM


def train(prepared: Path, model: Path, out: Path, settings: FinetuneSettings, report: Report) -> dict[str, Any]:
    """Fine-tune the model folder `model` on the prepared folder; write the tuned model into `out`; return the figures.

    Goes on from the newest whole checkpoint in `out`, with the same weights in the end as if it had never stopped.
    {"steps", "tokens", "seconds", "peak_memory_bytes", "loss", "tokens_per_s", "effective_batch", "eval_loss"}: tokens
    without padding, seconds of the training steps alone, loss in nats over the supervised tokens of the last epoch.
    Raises TrainingError; SystemExit 143 after a SIGTERM, with a checkpoint of the step that was running.
    """
    documents = read_documents(prepared / "train.jsonl")
    if not documents:
        raise TrainingError("there is no row to train on", where=str(prepared / "train.jsonl"))
    out.mkdir(parents=True, exist_ok=True)
    micro_tokens = _announce(documents, model, settings, report)
    opened, note = open_model(model, _lora(model, settings), arithmetic(settings.precision))
    if note:
        report({"event": "note", "text": note})
    validation = prepared / "validation.jsonl"
    run = Run(documents, read_documents(validation) if validation.is_file() else [], opened, out, settings, report)
    run.micro_tokens = micro_tokens
    run.to_the_end()
    report({"event": "note", "text": "merging the adapter into the weights"})
    write_model(model, prepared, out, opened, settings)
    checkpoints.tidy(out)
    return run.figures()


def _lora(model: Path, settings: FinetuneSettings) -> Any:
    return lora_spec(model, settings.lora_r, settings.lora_alpha, settings.lora_dropout)


def _announce(documents: Sequence[Document], model: Path, settings: FinetuneSettings, report: Report) -> int:
    """Tell what the run will take, refuse what cannot fit, and return the tokens of a micro-batch."""
    sizes = Sizes.of(read_json(model / "config.json"), count_parameters(model))
    number = bytes_a_number(settings.precision)
    steps = settings.num_steps(len(documents))
    passes = steps / settings.steps_per_epoch(len(documents))
    rows = sum(document.num_rows for document in documents)
    supervised = sum(document.num_supervised for document in documents)
    if supervised == 0:
        raise TrainingError("no token is supervised", where="train.jsonl", fix="prepare conversations with assistants")
    micro_tokens = max(SMALLEST_MICRO_BATCH, int(ACTIVATION_BYTES / sizes.activation_bytes(number)))
    longest = max(document.num_rows for document in documents)
    recomputed = longest * sizes.hidden * sizes.layers * number  # one input a layer is kept
    adapter = 2 * settings.lora_r * (6 * sizes.hidden + 3 * sizes.feed_forward) * sizes.layers
    activations = ACTIVATION_BYTES + recomputed
    needed = memory_needed(sizes.parameters, settings.precision, adapter=adapter, activations=activations)
    available = memory_available()
    if needed > available:
        what = f"training needs about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free"
        raise TrainingError(what, fix="choose a smaller base model, or a smaller max_seq_length")
    seconds = seconds_needed(sizes, settings.precision, int(rows * passes), int(supervised * passes))
    arithmetic_name = "bfloat16" if number == 2 else "float32"
    text = (
        f"{len(documents)} conversations, {rows:,} tokens, {settings.effective_batch} a step, {steps} steps in "
        f"{arithmetic_name}; about {_minutes(seconds)} and at most {needed / 1e9:.1f} GB of {available / 1e9:.1f} GB"
    )
    report({"event": "note", "text": text})
    if settings.precision == "16" and number == 4:
        report({"event": "note", "text": "precision 16 runs as float32: this CPU has no bfloat16 arithmetic"})
    if settings.apply_deepspeed:
        what = f"DeepSpeed stage {settings.deepspeed_stage} is skipped: one process has nobody to share its state with"
        report({"event": "note", "text": what})
    return micro_tokens


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class Run:
    """One fine-tuning run: its data, its model, and how far it is."""

    def __init__(
        self,
        documents: Sequence[Document],
        validation: Sequence[Document],
        model: Model,
        out: Path,
        settings: FinetuneSettings,
        report: Report,
    ) -> None:
        self.documents, self.validation = documents, validation
        self.model, self.out, self.settings, self.report = model, out, settings, report
        self.total = settings.num_steps(len(documents))
        self.per_epoch = settings.steps_per_epoch(len(documents))
        self.micro_tokens = 2048
        self.progress = checkpoints.Progress()
        self.eval_loss: float | None = None
        self._stop = False
        self._reported_at = self._saved_at = time.monotonic()
        self._since_log = (0.0, 0)  # nats and targets since the last logged loss
        torch.manual_seed(settings.seed)
        model.reset_adapter(settings.seed)
        self.optimizer = torch.optim.AdamW(
            list(model.adapter.values()),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def to_the_end(self) -> None:
        """Take all steps that are left, from the newest checkpoint on."""
        if (found := checkpoints.newest(self.out)) is not None:
            self.progress = checkpoints.load(found, self.model.adapter, self.optimizer)
            self.report({"event": "note", "text": f"going on after step {self.progress.step} of {self.total}"})
        before = signal.signal(signal.SIGTERM, self._terminate)
        try:
            while self.progress.step < self.total:
                self._one_step()
                self._after_step()
        finally:
            signal.signal(signal.SIGTERM, before)

    def figures(self) -> dict[str, Any]:
        """Return what the run was, for the record."""
        done = self.progress
        return {
            "steps": done.step,
            "tokens": done.tokens,
            "seconds": round(done.seconds, 3),
            "tokens_per_s": round(done.tokens / done.seconds, 1) if done.seconds else None,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "loss": done.nats / done.targets if done.targets else None,
            "eval_loss": self.eval_loss,
            "effective_batch": self.settings.effective_batch,
        }

    def _one_step(self) -> None:
        """Take the next optimizer step and add it to the progress."""
        progress, settings = self.progress, self.settings
        started = time.monotonic()
        epoch, index = divmod(progress.step, self.per_epoch)
        if index == 0:
            progress.nats, progress.targets = 0.0, 0
        chosen = epoch_steps(len(self.documents), settings.effective_batch, seed=settings.seed, epoch=epoch)[index]
        batch = [self.documents[number] for number in chosen]
        rate = learning_rate_at(
            progress.step,
            peak=settings.learning_rate,
            curve=settings.lr_scheduler_type,
            warmup_steps=settings.warmup_steps,
            num_steps=self.total,
        )
        nats, norm = self._optimize(batch, rate)
        targets = sum(document.num_supervised for document in batch)
        progress.step += 1
        progress.tokens += sum(len(document) for document in batch)
        progress.nats += nats
        progress.targets += targets
        progress.seconds += time.monotonic() - started
        self._since_log = (self._since_log[0] + nats, self._since_log[1] + targets)
        self._log(rate, norm)

    def _optimize(self, batch: Sequence[Document], rate: float) -> tuple[float, float]:
        """Take one optimizer step over the batch; return the summed loss in nats and the gradient norm.

        The loss is divided by the supervised tokens of the whole step, so neither packing nor the cut into
        micro-batches changes the gradient.
        """
        targets = sum(document.num_supervised for document in batch)
        if targets == 0:
            return 0.0, 0.0
        nats = 0.0
        for micro_batch in micro_batches(batch, max_tokens=self.micro_tokens, padded=self.model.padded):
            rows = sum(document.num_rows for document in micro_batch)
            loss = self.model.loss_sum(micro_batch, recompute=rows > self.micro_tokens)
            (loss / targets).backward()
            nats += float(loss.detach())
        if not math.isfinite(nats):
            what = f"the loss of step {self.progress.step + 1} is {nats}"
            raise TrainingError(what, fix=f"lower learning_rate (it is {rate:g}) or max_grad_norm")
        parameters = list(self.model.adapter.values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm or math.inf))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return nats, norm

    def _log(self, rate: float, norm: float) -> None:
        """Report progress often, and metrics when the settings say so."""
        step, settings, now = self.progress.step, self.settings, time.monotonic()
        if now - self._reported_at >= SECONDS_BETWEEN_REPORTS or step == self.total:
            self._reported_at = now
            self.report(self._progress_event(rate))
        logs_now = step % (self.per_epoch if settings.logging_strategy == "epoch" else settings.logging_steps) == 0
        if (logs_now or step == self.total) and self._since_log[1]:
            nats, targets = self._since_log
            for name, value in (("loss", nats / targets), ("learning_rate", rate), ("grad_norm", norm)):
                self.report({"event": "metric", "name": name, "value": value, "step": step})
            self._since_log = (0.0, 0)

    def _progress_event(self, rate: float) -> dict[str, Any]:
        done = self.progress
        speed = done.seconds / done.step
        return {
            "event": "progress",
            "done": done.step,
            "total": self.total,
            "unit": "steps",
            "loss": done.nats / done.targets if done.targets else None,
            "learning_rate": rate,
            "tokens_per_s": done.tokens / done.seconds if done.seconds else None,
            "eta_s": speed * (self.total - done.step),
        }

    def _after_step(self) -> None:
        """Evaluate and keep checkpoints where they are due; stop here when asked to."""
        ended = self.progress.step == self.total
        if self._evaluates_now():
            self._evaluate()
        if ended or self._evaluates_now():
            self._save(self.out / f"checkpoint-{self.progress.step}")
            checkpoints.prune(self.out, self.settings.save_total_limit)
        elif self._stop or time.monotonic() - self._saved_at > SECONDS_BETWEEN_ROLLING:
            self._save(self.out / checkpoints.ROLLING)
        if self._stop and not ended:
            self.report({"event": "note", "text": f"stopped after step {self.progress.step}, with a checkpoint"})
            raise SystemExit(TERMINATED)

    def _evaluates_now(self) -> bool:
        strategy, step = self.settings.evaluation_strategy, self.progress.step
        if strategy == "disable" or not self.validation:
            return False
        interval = self.per_epoch if strategy == "epoch" else self.settings.eval_steps
        return step % interval == 0 or step == self.total

    def _evaluate(self) -> None:
        found = loss_on(self.model, self.validation, lambda event: None)
        if found.tokens:
            self.eval_loss = found.nats / found.tokens
            event = {"event": "metric", "name": "eval_loss", "value": self.eval_loss}
            self.report(event | {"step": self.progress.step})

    def _save(self, folder: Path) -> None:
        checkpoints.save(folder, self.model.adapter, self.optimizer, self.progress)
        self._saved_at = time.monotonic()

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        """Let the running step end, then stop."""
        self._stop = True
