"""Read what a GGUF file says about itself, in a tenth of a second.

The gguf package builds an array for each of the 100,000 texts of a vocabulary, which takes it seconds.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from penala.errors import ModelError

# value type -> struct code; 8 is text and 9 an array of one of the others
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the key-value pairs of a GGUF file (version 2 or 3, little-endian). Raises ModelError when it is none."""
    try:
        with path.open("rb") as file:
            magic, version, _, num_pairs = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3):
                raise ModelError("is no GGUF file of version 2 or 3", where=str(path))
            return {_text(file): _value(file, _scalar(file, "I")) for _ in range(num_pairs)}
    except (struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError):
        raise ModelError("is no whole GGUF file", where=str(path), fix="fetch it again") from None


def read_chat_metadata(path: Path) -> dict[str, Any]:
    """Return what `read_metadata` does. Raises ModelError for a model that has no chat template, too."""
    metadata = read_metadata(path)
    if "tokenizer.chat_template" not in metadata:
        raise ModelError("has no chat template", where=str(path), fix="use a GGUF file of an instruct or chat model")
    return metadata


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    of, length = _scalar(file, "I"), _scalar(file, "Q")
    if of in (_TEXT, _ARRAY):
        return [_value(file, of) for _ in range(length)]
    code = f"<{length}{_SCALARS[of]}"
    return list(struct.unpack(code, file.read(struct.calcsize(code))))
