"""Libraries that only some calls need: imported there, with a sentence where they are missing."""

from importlib import import_module
from typing import Any


def library(module: str, needed_for: str, extra: str) -> Any:
    """The module. Raises ImportError with a sentence that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"{needed_for} needs {name}, which is not installed; pip install 'seg-client[{extra}]'."
        ) from error
