"""Imports bitsandbytes without the code it would fetch: on some CPUs it downloads and runs a kernel from the hub."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

_FETCHER = "kernels"
_UNSET = object()


def bitsandbytes() -> ModuleType:
    """Return the bitsandbytes module, bound to the kernels it was installed with."""
    before: object = sys.modules.get(_FETCHER, _UNSET)
    if "bitsandbytes" not in sys.modules:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns that there is nothing to fetch with
        sys.modules[_FETCHER] = None  # type: ignore[assignment] - makes the import fail, which bitsandbytes allows for
    try:
        import bitsandbytes  # noqa: PLC0415

        return bitsandbytes  # type: ignore[no-any-return]
    finally:
        if before is _UNSET:
            sys.modules.pop(_FETCHER, None)
        else:
            sys.modules[_FETCHER] = before  # type: ignore[assignment]
