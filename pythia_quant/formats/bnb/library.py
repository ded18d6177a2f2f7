"""Import bitsandbytes so that it downloads no code: on some CPUs it would fetch a kernel from the hub and run it."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any

_FETCHER = "kernels"


def bitsandbytes() -> Any:
    """Return the bitsandbytes module, bound to the kernels it was installed with."""
    modules: dict[str, Any] = sys.modules
    before = {_FETCHER: modules[_FETCHER]} if _FETCHER in modules else {}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns that there is nothing to fetch with
    modules[_FETCHER] = None  # makes the import of it fail, for which bitsandbytes has a way out
    try:
        return import_module("bitsandbytes")
    finally:
        del modules[_FETCHER]
        modules.update(before)
