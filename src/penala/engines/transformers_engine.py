"""The reference engine: any causal language model of transformers, with the model's own key-value cache.

Requests of all lengths share one batch, aligned on the right: a row's padding stands left of its prompt, is masked, and
does not count as a position. So rows can join and leave between two steps, and a row's tokens do not depend on its
neighbours (in fp32; in bf16 up to rounding).

Shapes: B = rows, T = columns (padding, prompt and reply), V = vocabulary.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from penala.engines.engine import Engine, FinishReason, Generation, NewToken
from penala.errors import EngineError

MAX_ROWS = 16
PREFILL_TOKENS = 2048  # of prompts, padding included, that are read in one go: bounds the wait of the rows under way
CACHE_BYTES = 2 << 30  # of keys and values; one request alone may take more
_ROOM = 64  # columns
_NO_MASK = torch.ones(0, 0, dtype=torch.bool)


def open_engine(folder: Path, *, dtype: torch.dtype | None = None, max_rows: int = MAX_ROWS) -> "TransformersEngine":
    """Load a plain model folder (config.json and safetensors; no pickle, no code of its own).

    `dtype` unset: bfloat16 where the processor computes in it, else float32. Raises EngineError for a folder that does
    not hold a whole model.
    """
    _check_folder(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _load(folder, dtype or _best_dtype(device)).to(device).eval()
    try:
        return TransformersEngine(model, max_rows=max_rows)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise EngineError(f"the model cannot be run: {error}", where=str(folder)) from error


def native_bf16(capabilities: Mapping[str, object]) -> bool:
    """Tell whether a processor with these capabilities multiplies bfloat16; emulated it is slower than fp32."""
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if native_bf16(torch.cpu.get_capabilities()) else torch.float32


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise EngineError(
            "there is no config.json", where=str(folder), fix="give a model folder (config, weights, tokenizer)"
        )
    if not any(folder.glob("*.safetensors")):
        found = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".gguf"})
        have = f" but {', '.join(found)}" if found else ""
        fix = "convert the weights to safetensors; files that may run code when read are not loaded"
        raise EngineError(f"there are no safetensors{have}", where=str(folder), fix=fix)


def _load(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would fill the log with carriage returns
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError, ... by file
        raise EngineError(f"the model cannot be loaded: {error}", where=str(folder)) from error
    # transformers would fill these with random numbers and go on
    if lacking := sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"])):
        what = f"{len(lacking)} weights are missing or have another shape, {lacking[0]} first"
        raise EngineError(what, where=str(folder), fix="config.json and the safetensors must be of one model")
    return model


@dataclass(slots=True, eq=False)
class _Row:
    """One reply under way or waiting."""

    number: int
    request: Generation
    limit: int  # tokens of the reply, within the request and the model's length
    written: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    generator: torch.Generator | None = None

    @property
    def columns(self) -> int:
        """Columns that the row needs in the batch by its end."""
        return len(self.request.prompt) + self.limit

    def take(self, token: int) -> NewToken:
        self.written.append(token)
        if token in self.request.end_ids:
            self.finish_reason = "stop"
        elif len(self.written) == self.limit:
            self.finish_reason = "length"
        return NewToken(self.number, token, self.finish_reason)


class TransformersEngine(Engine):
    """Write replies with a causal language model of transformers; build it with `open_engine`."""

    def __init__(self, model: Any, *, max_rows: int = MAX_ROWS, cache_bytes: int = CACHE_BYTES) -> None:
        self._model = model
        self._device = model.device
        self.max_length = int(model.config.get_text_config().max_position_embeddings)
        self._shared = _rows_can_share_a_batch(model.config)
        self._max_rows = max_rows if self._shared else 1
        self._next_number = 0
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._cache: Any = None  # of self._rows, in that order
        self._mask_BT = _NO_MASK  # True where a row has a token
        one = torch.ones(1, 1, dtype=torch.long)
        with torch.inference_mode():  # it runs, and the size of a token's keys and values is known
            _, cache = self._forward(one, one.bool(), self._new_cache())
        token_bytes = sum(tensor.nbytes for layer in cache.layers for tensor in _tensors(layer))
        self._max_cells = cache_bytes // max(token_bytes, 1)

    def add(self, request: Generation) -> int:
        room = self.max_length - len(request.prompt)
        if room < 1:
            what = f"the prompt has {len(request.prompt)} tokens, the model's context ends at {self.max_length}"
            raise EngineError(what, fix="shorten the conversation")
        self._next_number += 1
        self._waiting.append(_Row(self._next_number, request, min(request.max_new_tokens, room)))
        return self._next_number

    def cancel(self, request: int) -> None:
        self._waiting = deque(row for row in self._waiting if row.number != request)
        for row in self._rows:
            if row.number == request:
                row.finish_reason = "cancelled"  # leaves with the next step

    def reset(self) -> None:
        self._waiting.clear()
        self._rows, self._cache, self._mask_BT = [], None, _NO_MASK

    @torch.inference_mode()
    def step(self) -> list[NewToken]:
        self._leave()
        tokens = []
        if newcomers := self._admit():
            tokens += self._read(newcomers)
            self._leave()
        if self._rows:
            tokens += self._write()
        return tokens

    def _admit(self) -> list[_Row]:
        """Take from the queue, in its order, what fits beside the rows under way."""
        admitted: list[_Row] = []
        while self._waiting and len(self._rows) + len(admitted) < self._max_rows:
            group = [*admitted, self._waiting[0]]
            together = [*self._rows, *group]
            cells = len(together) * max(row.columns for row in together)
            prefill = len(group) * max(len(row.request.prompt) for row in group)
            if len(together) > 1 and (cells > self._max_cells or (admitted and prefill > PREFILL_TOKENS)):
                break
            admitted.append(self._waiting.popleft())
        return admitted

    def _read(self, rows: list[_Row]) -> list[NewToken]:
        """Read the prompts of `rows`, write their first tokens, and let them join the batch."""
        width = max(len(row.request.prompt) for row in rows)
        ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            length = len(row.request.prompt)
            ids_BT[index, width - length :] = torch.tensor(row.request.prompt)
            mask_BT[index, width - length :] = True
        logits_BV, cache = self._forward(ids_BT, mask_BT, self._new_cache())
        if self._rows:
            columns = max(width, self._mask_BT.shape[1])
            for ours, theirs in zip(self._cache.layers, cache.layers, strict=True):
                keys = torch.cat([_widen(ours.keys, columns, 2), _widen(theirs.keys, columns, 2)])
                values = torch.cat([_widen(ours.values, columns, 2), _widen(theirs.values, columns, 2)])
                ours.replace(keys, values)
            mask_BT = torch.cat([_widen(self._mask_BT, columns, 1), _widen(mask_BT, columns, 1)])
        else:
            self._cache = cache
        self._mask_BT = mask_BT
        self._rows += rows
        return [row.take(token) for row, token in zip(rows, _choose(logits_BV, rows), strict=True)]

    def _write(self) -> list[NewToken]:
        """Write the next token of every row."""
        ids_B1 = torch.tensor([[row.written[-1]] for row in self._rows])
        self._mask_BT = torch.nn.functional.pad(self._mask_BT, (0, 1), value=True)
        logits_BV, self._cache = self._forward(ids_B1, self._mask_BT, self._cache)
        return [row.take(token) for row, token in zip(self._rows, _choose(logits_BV, self._rows), strict=True)]

    def _leave(self) -> None:
        """Let the rows that have ended leave the batch, and columns that only they needed."""
        keep = [index for index, row in enumerate(self._rows) if row.finish_reason is None]
        if len(keep) == len(self._rows):
            return
        self._rows = [self._rows[index] for index in keep]
        if not keep:
            self._cache, self._mask_BT = None, _NO_MASK
            return
        mask_BT = self._mask_BT[keep]
        first = int(mask_BT.any(0).int().argmax())  # the first column that any row uses
        self._mask_BT = mask_BT[:, first:]
        for layer in self._cache.layers:
            layer.replace(layer.keys[keep, :, first:], layer.values[keep, :, first:])

    def _forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Run the last columns of the batch; return (logits of the last column as float32 on the CPU, cache)."""
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        output = self._model(
            input_ids=ids_BT.to(self._device),
            attention_mask=mask_BT.to(self._device),
            position_ids=positions_BT.to(self._device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float().cpu(), output.past_key_values

    def _new_cache(self) -> Cache:
        # Each layer of a shared batch keeps the whole past, so that rows can join; windows are the masks' affair
        return Cache(layer_class_to_replicate=_Layer) if self._shared else DynamicCache(config=self._model.config)


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers publishes no types
    """Keys and values of one layer, (B, heads, T, width), with room for more columns: a step then copies one token.

    transformers' own layer copies its whole past with each token: 16 rows of 500 tokens are 370 MB of SmolLM2's.
    """

    keys: torch.Tensor
    values: torch.Tensor
    _room: list[torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Add columns; return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.replace(key_states, value_states)
            return self.keys, self.values
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if self._room is None or self._room[0].shape[2] < end:
            self._room = [_with_room(past, end + _ROOM) for past in (self.keys, self.values)]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold other rows or columns from now on."""
        self.keys, self.values, self._room = keys, values, None


def _with_room(past: torch.Tensor, columns: int) -> torch.Tensor:
    """Return a copy of `past` with undefined columns behind it, up to `columns`."""
    room = past.new_empty(*past.shape[:2], columns, past.shape[3])
    room[:, :, : past.shape[2]] = past
    return room


def _rows_can_share_a_batch(config: Any) -> bool:
    """Tell whether rows can be padded and joined: every layer has keys and values, and positions are the row's own."""
    layers = DynamicCache(config=config).layers
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    # these two choose their frequencies by the longest row of the batch
    by_longest = rope.get("rope_type") in {"longrope", "dynamic"}
    return not by_longest and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _tensors(layer: Any) -> list[torch.Tensor]:
    return [t for t in (getattr(layer, "keys", None), getattr(layer, "values", None)) if t is not None]


def _widen(tensor: torch.Tensor, columns: int, dim: int) -> torch.Tensor:
    """Put zeros before `tensor` along `dim`, up to `columns`."""
    missing = columns - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)


def _choose(logits_BV: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
    """Return the next token of each row: the likeliest, or a draw by the row's temperature and top_p."""
    tokens: list[int] = logits_BV.argmax(-1).tolist()
    for index, row in enumerate(rows):
        if row.request.temperature > 0:
            if row.generator is None:
                row.generator = torch.Generator()
                row.generator.seed() if row.request.seed is None else row.generator.manual_seed(row.request.seed)
            draw = float(torch.rand(1, generator=row.generator, dtype=torch.float64))
            tokens[index] = sample(logits_BV[index], row.request.temperature, row.request.top_p, draw)
    return tokens


def sample(logits_V: torch.Tensor, temperature: float, top_p: float, draw: float) -> int:
    """Return the token at `draw` (in [0, 1)) of the nucleus: the likeliest tokens whose probabilities reach `top_p`.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    probabilities_V, ids_V = torch.softmax(logits_V.double() / temperature, 0).sort(descending=True, stable=True)
    reached_V = probabilities_V.cumsum(0)
    size = min(int((reached_V < top_p).sum()) + 1, len(ids_V))
    place = int(torch.searchsorted(reached_V[:size], draw * float(reached_V[size - 1]), right=True))
    return int(ids_V[min(place, size - 1)])
