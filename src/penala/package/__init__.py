"""The MLflow model folder: written after training (`write`), read back by whoever serves it (`read`)."""

from penala.package.read import Package, read_package

__all__ = ["Package", "read_package"]
