"""What plain MLflow runs: load a package's weights and write replies.

This file is copied into every package as code/penala_chat_model.py, the loader module of its python_function flavour.
There it needs what requirements.txt names and no penala. Prompts are rendered with the model's own chat template and
tokenised without the special tokens that a tokenizer would add; on loading, both are compared with the template lock.
"""

import json
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DEFAULT_MAX_TOKENS = 256
LOCKED_AT = datetime(2025, 1, 2, 3, 4, 5)  # the time that golden renderings are told: penala.tokens.lock.NOW


def _load_pyfunc(path: str) -> "ChatModel":
    """Return the model of a package; the name is MLflow's."""
    return ChatModel(Path(path))


class ChatModel:
    """A tuned chat model. Raises ValueError when its template is not the one that it was trained with."""

    def __init__(self, folder: Path) -> None:
        model = folder / "model"
        self.name = folder.absolute().name
        self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
        if (model / "template_lock.json").is_file():
            self._compare_with(json.loads((model / "template_lock.json").read_text(encoding="utf-8")))
        self.model = AutoModelForCausalLM.from_pretrained(
            model, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
        ).eval()

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Answer {"messages": [...]}, or each row of a DataFrame with such a column: one chat completion each.

        Beside the messages, or in `params`: `temperature` (0, the default: the likeliest token each time), `top_p`,
        `max_tokens`, `stop` and `seed`. Raises ValueError for anything else.
        """
        rows = [data] if isinstance(data, dict) else data.to_dict(orient="records")
        return [
            self._complete(**{**(params or {}), **{key: row[key] for key in row if _is_given(row[key])}})
            for row in rows
        ]

    def _complete(
        self,
        *,
        messages: Any,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        stop: Any = (),
        seed: int | None = None,
    ) -> dict[str, Any]:
        prompt = self._prompt([dict(message) for message in messages])
        stops = [stop] if isinstance(stop, str) else list(stop)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if seed is not None:
            torch.manual_seed(int(seed))
        ids = torch.tensor([prompt], device=self.model.device)
        with torch.inference_mode():
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=int(max_tokens),
                pad_token_id=self._pad_id(),
                **(sampling if temperature > 0 else {"do_sample": False}),
                **({"stop_strings": stops, "tokenizer": self.tokenizer} if stops else {}),
            )
        reply = output[0, len(prompt) :].tolist()
        ended = reply[-1] in self._end_ids()
        text = self.tokenizer.decode(reply[:-1] if ended else reply, clean_up_tokenization_spaces=False)
        cuts = [text.index(string) for string in stops if string in text]
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text[: min(cuts)] if cuts else text},
                    "finish_reason": "stop" if ended or cuts else "length",
                }
            ],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": len(reply),
                "total_tokens": len(prompt) + len(reply),
            },
        }

    def _prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        kept = [{key: value for key, value in message.items() if value is not None} for message in messages]
        if (token := self._spelled(kept)) is not None:
            raise ValueError(f"a message spells the special token {token}, which cannot be kept as text here")
        return self._ids(self.tokenizer.apply_chat_template(kept, tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _spelled(self, messages: list[dict[str, Any]]) -> str | None:
        """Return a special token that a message spells: in the prompt it would end the message."""
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        texts = [str(message.get("content")) for message in messages]
        return next((token for token in special if any(token in text for text in texts)), None)

    def _end_ids(self) -> set[int]:
        end = self.model.generation_config.eos_token_id
        return set(end) if isinstance(end, list) else {end}

    def _pad_id(self) -> int:
        pad = self.model.generation_config.pad_token_id
        return min(self._end_ids()) if pad is None else int(pad)

    def _compare_with(self, lock: dict[str, Any]) -> None:
        """Raise ValueError unless template and tokenizer give the lock's golden renderings.

        Tokens are compared where transformers tokenises as training did: before the assistant has spoken, and where no
        text spells a special token.
        """
        for number, golden in enumerate(lock["goldens"], 1):
            if golden["text"] is None:
                continue
            where = f"template_lock.json: golden rendering {number}"
            messages, prompt = golden["messages"], golden["prompt"]
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=golden["tools"],
                add_generation_prompt=prompt,
                tokenize=False,
                strftime_now=LOCKED_AT.strftime,
            )
            if text != golden["text"]:
                raise ValueError(f"{where} reads {text!r} here and was {golden['text']!r} in training")
            if not prompt or self._spelled(messages) or any(message["role"] == "assistant" for message in messages):
                continue
            if (ids := self._ids(text)) != golden["ids"]:
                raise ValueError(f"{where} has the tokens {ids} here and had {golden['ids']} in training")


def _is_given(value: Any) -> bool:
    """Tell a value from the None or NaN that a DataFrame has where a row says nothing."""
    return value is not None and value == value  # NaN is unlike itself
