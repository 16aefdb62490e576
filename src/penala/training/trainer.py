"""The training loop: optimizer steps over whole batches of conversations, checkpoints, and a resume that is exact."""

import hashlib
import json
import math
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from penala.basemodel.folder import count_parameters, read_json
from penala.errors import TrainingError
from penala.tokens.lock import FILE as LOCK
from penala.tokens.prepared import split_file
from penala.training import checkpoints
from penala.training.batches import Document, Documents, epoch_steps, micro_batches, read_documents
from penala.training.estimate import (
    MicroBatches,
    Sizes,
    bytes_a_number,
    memory_available,
    memory_needed,
    seconds_needed,
)
from penala.training.llama import LlamaShape
from penala.training.loss import loss_on
from penala.training.model import Model, arithmetic, lora_spec, open_model, open_whole
from penala.training.output import write_model
from penala.training.schedule import learning_rate_at
from penala.training.settings import FinetuneSettings

Report = Callable[[dict[str, Any]], None]

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_ROLLING = 30.0  # when a rolling checkpoint is written changes no number of the run
ROLLING_SHARE = 0.05  # of the time, at most, goes into rolling checkpoints
TERMINATED = 128 + signal.SIGTERM


def train(prepared: Path, model: Path, out: Path, settings: FinetuneSettings, report: Report) -> dict[str, Any]:
    """Fine-tune the model folder `model` on the prepared folder; write the tuned model into `out`; return the figures.

    Goes on from the newest whole checkpoint in `out`, with the same weights in the end as if it had never stopped.
    {"steps", "tokens", "seconds", "peak_memory_bytes", "loss", "tokens_per_s", "effective_batch", "eval_loss"}: tokens
    without padding, seconds of the training steps alone, loss in nats over the supervised tokens of the last epoch.
    Raises TrainingError; SystemExit 143 after a SIGTERM, with a checkpoint of the step that was running.
    """
    documents = read_documents(split_file(prepared, "train"))
    if not documents:
        raise TrainingError("there is no row to train on", where=str(split_file(prepared, "train")))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot be made: {error.strerror}", where=str(out), fix="choose another folder") from None
    cut = _announce(documents, model, settings, report)
    opened = _open(model, settings, report)
    validation = split_file(prepared, "validation")
    held_out = read_documents(validation) if validation.is_file() else []
    identity = _identity(model, chain(documents, held_out), settings)
    lock = prepared / LOCK
    run = Run(documents, held_out, opened, out, settings, report, cut=cut, identity=identity, lock=lock)
    run.to_the_end()
    if settings.apply_lora:
        report({"event": "note", "text": "merging the adapter into the weights"})
    write_model(model, prepared, out, opened, settings)
    checkpoints.tidy(out)
    return run.figures()


def _open(folder: Path, settings: FinetuneSettings, report: Report) -> Model:
    """Return the model with what is to be trained: a LoRA adapter, or all its weights."""
    if not settings.apply_lora:
        return open_whole(folder, arithmetic(settings.precision))
    lora = lora_spec(folder, settings.lora_r, settings.lora_alpha, settings.lora_dropout)
    opened, note = open_model(folder, lora, arithmetic(settings.precision))
    if note:
        report({"event": "note", "text": note})
    if not opened.adapter:
        raise TrainingError(f"LoRA finds none of {', '.join(lora.targets)} in this model", where=str(folder))
    return opened


def _identity(model: Path, documents: Iterable[Document], settings: FinetuneSettings) -> str:
    """Return a digest of what decides the numbers of a run, so that no checkpoint of another run is gone on from."""
    digest = hashlib.sha256((model / "config.json").read_bytes())
    digest.update(json.dumps(asdict(settings), sort_keys=True).encode())
    for document in documents:
        digest.update(document.ids.tobytes() + document.labels.tobytes())
    return digest.hexdigest()


def _announce(documents: Documents, model: Path, settings: FinetuneSettings, report: Report) -> MicroBatches:
    """Tell what the run will take, refuse what cannot fit, and return how its steps are cut into micro-batches."""
    config = read_json(model / "config.json")
    sizes = Sizes.of(config, count_parameters(model))
    number = bytes_a_number(settings.precision)
    steps = settings.num_steps(len(documents))
    passes = steps / settings.steps_per_epoch(len(documents))
    rows, supervised = documents.num_rows, documents.num_supervised
    if supervised == 0:
        raise TrainingError("no token is supervised", where="train.arrow", fix="prepare conversations with assistants")
    fast = settings.apply_lora and isinstance(LlamaShape.of(config), LlamaShape)
    cut = MicroBatches.plan(sizes, rows, settings.effective_batch, bytes_a_number=number, fast=fast)
    trained = sizes.parameters
    if settings.apply_lora:
        trained = 2 * settings.lora_r * (6 * sizes.hidden + 3 * sizes.feed_forward) * sizes.layers
    needed = memory_needed(sizes.parameters, settings.precision, trained=trained, activations=cut.largest_bytes)
    available = memory_available()
    if needed > available:
        what = f"training needs about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free"
        less = "" if settings.apply_lora else "set apply_lora to true, "
        raise TrainingError(what, fix=f"{less}choose a smaller base model, or a smaller max_seq_length")
    tokens = int(sum(rows) * passes), int(supervised * passes)
    seconds = seconds_needed(sizes, settings.precision, *tokens, whole=not settings.apply_lora)
    text = (
        f"{len(documents)} conversations, {sum(rows):,} tokens, {settings.effective_batch} a step, {steps} steps in "
        f"{'bfloat16' if number == 2 else 'float32'}; about {_minutes(seconds)} and at most {needed / 1e9:.1f} GB "
        f"of {available / 1e9:.1f} GB"
    )
    report({"event": "note", "text": text})
    _say_what_differs(settings, number, report)
    return cut


def _say_what_differs(settings: FinetuneSettings, number: int, report: Report) -> None:
    """Name the inputs that this machine cannot take at their word."""
    if settings.precision == "16" and number == 4:
        report({"event": "note", "text": "precision 16 runs as float32: this CPU has no bfloat16 arithmetic"})
    if settings.apply_deepspeed:
        what = f"DeepSpeed stage {settings.deepspeed_stage} is skipped: one process has nobody to share its state with"
        report({"event": "note", "text": what})


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
        *,
        cut: MicroBatches,
        identity: str,
        lock: Path,
    ) -> None:
        self.documents, self.validation = documents, validation
        self.model, self.out, self.settings, self.report = model, out, settings, report
        self.lock = lock
        self.total = settings.num_steps(len(documents))
        self.per_epoch = settings.steps_per_epoch(len(documents))
        self.cut = cut
        self.progress = checkpoints.Progress(run=identity)
        self._order: tuple[int, list[list[int]]] = (-1, [])  # an epoch and its steps
        self._stop = False
        self._reported_at = self._saved_at = time.monotonic()
        self._pause = SECONDS_BETWEEN_ROLLING
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
            self._go_on_from(found)
        with self._stopping_on_sigterm():
            if self.progress.step == 0 and self._evaluates_at_all:
                self._evaluate()
            while self.progress.step < self.total:
                self._one_step()
                self._after_step()

    def _go_on_from(self, folder: Path) -> None:
        checkpoints.require_lock(folder, self.lock)
        progress = checkpoints.progress_of(folder)
        if progress.run != self.progress.run:
            what = "this checkpoint is of a run with other settings, other data or another base model"
            raise TrainingError(what, where=str(folder), fix=f"empty {self.out}, or run with what that run had")
        checkpoints.load(folder, self.model.adapter, self.optimizer)
        self.progress = progress
        self.report({"event": "note", "text": f"going on after step {progress.step} of {self.total}"})

    @contextmanager
    def _stopping_on_sigterm(self) -> Iterator[None]:
        """Let a SIGTERM end the run after the step that is running; only a main thread can be told."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
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
            "eval_loss": done.eval_loss,
            "effective_batch": self.settings.effective_batch,
        }

    def _one_step(self) -> None:
        """Take the next optimizer step and add it to the progress."""
        progress, settings = self.progress, self.settings
        started = time.monotonic()
        epoch, index = divmod(progress.step, self.per_epoch)
        if index == 0:
            progress.nats, progress.targets = 0.0, 0
        if self._order[0] != epoch:
            batch_size = settings.effective_batch
            self._order = (epoch, epoch_steps(len(self.documents), batch_size, seed=settings.seed, epoch=epoch))
        batch = [self.documents[number] for number in self._order[1][index]]
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
        progress.logged_nats += nats
        progress.logged_targets += targets
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
        for micro_batch in micro_batches(batch, max_tokens=self.cut.max_tokens, padded=self.model.padded):
            # only a document that goes alone is longer than max_tokens
            recompute = micro_batch[0].num_rows > self.cut.recompute_above
            loss = self.model.loss_sum(micro_batch, recompute=recompute)
            (loss / targets).backward()
            nats += float(loss.detach())
            self._report_progress(rate)
        parameters = list(self.model.adapter.values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm or math.inf))
        for name, value in (("loss", nats), ("gradient norm", norm)):
            if not math.isfinite(value):  # before it spoils the weights, and with them the checkpoints
                what = f"the {name} of step {self.progress.step + 1} is {value}"
                raise TrainingError(what, fix=f"lower learning_rate (it is {rate:g}) or max_grad_norm")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return nats, norm

    def _log(self, rate: float, norm: float) -> None:
        """Report progress often, and metrics when the settings say so."""
        step, settings, progress = self.progress.step, self.settings, self.progress
        self._report_progress(rate, at_once=step == self.total)
        logs_now = step % (self.per_epoch if settings.logging_strategy == "epoch" else settings.logging_steps) == 0
        if (logs_now or step == self.total) and progress.logged_targets:
            loss = progress.logged_nats / progress.logged_targets
            progress.logged_nats, progress.logged_targets = 0.0, 0
            metrics = {"loss": loss, "learning_rate": rate, "grad_norm": norm, "epoch": step / self.per_epoch}
            for name, value in metrics.items():
                self.report({"event": "metric", "name": name, "value": value, "step": step})

    def _report_progress(self, rate: float, *, at_once: bool = False) -> None:
        """Say how far the run is, also within a long step, but not too often."""
        now, done = time.monotonic(), self.progress
        if not at_once and now - self._reported_at < SECONDS_BETWEEN_REPORTS:
            return
        self._reported_at = now
        event = {
            "event": "progress",
            "done": done.step,
            "total": self.total,
            "unit": "steps",
            "loss": done.nats / done.targets if done.targets else None,
            "learning_rate": rate,
            "tokens_per_s": done.tokens / done.seconds if done.seconds else None,
            "eta_s": done.seconds / done.step * (self.total - done.step) if done.step else None,
        }
        self.report(event)

    def _after_step(self) -> None:
        """Evaluate and keep checkpoints where they are due; stop here when asked to."""
        ended = self.progress.step == self.total
        if self._evaluates_now():
            self._evaluate()
        if ended or self._evaluates_now():
            self._save(self.out / f"checkpoint-{self.progress.step}")
            checkpoints.prune(self.out, self.settings.save_total_limit)
        elif self._stop or time.monotonic() - self._saved_at > self._pause:
            self._save(self.out / checkpoints.ROLLING)
        if self._stop and not ended:
            self.report({"event": "note", "text": f"stopped after step {self.progress.step}, with a checkpoint"})
            raise SystemExit(TERMINATED)

    @property
    def _evaluates_at_all(self) -> bool:
        return self.settings.evaluation_strategy != "disable" and bool(self.validation)

    def _evaluates_now(self) -> bool:
        step = self.progress.step
        interval = self.per_epoch if self.settings.evaluation_strategy == "epoch" else self.settings.eval_steps
        return self._evaluates_at_all and (step % interval == 0 or step == self.total)

    def _evaluate(self) -> None:
        at_once = self.settings.evaluation_batch
        found = loss_on(self.model, self.validation, lambda event: None, max_documents=at_once)
        if found.tokens:
            self.progress.eval_loss = loss = found.nats / found.tokens
            self.report({"event": "metric", "name": "eval_loss", "value": loss, "step": self.progress.step})

    def _save(self, folder: Path) -> None:
        begun = time.monotonic()
        checkpoints.save(folder, self.model.adapter, self.optimizer, self.progress, self.lock)
        self._saved_at = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_ROLLING, (self._saved_at - begun) / ROLLING_SHARE)

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        """Let the running step end, then stop."""
        self._stop = True
