"""Downloads as the SDK's: again into the same folder writes over what is there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penala.azure.failures import refusal


@contextmanager
def written_over(folder: Path) -> Iterator[Path]:
    """Give a new place; the files written there replace those of the same names in `folder`.

    Raises ValidationException when they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as work:
            made = Path(work) / "made"
            yield made
            if made.exists():
                shutil.copytree(made, folder, dirs_exist_ok=True, copy_function=os.replace)
    except OSError as error:
        raise refusal(f"{folder} cannot be written: {error.strerror or error}; give another download_path") from None
