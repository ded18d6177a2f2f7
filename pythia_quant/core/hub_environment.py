"""Check the environment variables of the hub before huggingface_hub is imported: its import fails on bad values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from pythia_quant.core.errors import HubError
from pythia_quant.core.text import short


def check_hub_environment(variables: Mapping[str, str] = os.environ) -> None:
    """Refuse values that make the import of huggingface_hub fail. Other bad values are reported by later requests.

    Raises:
        HubError: a variable has such a value; the message names the variable.
    """
    endpoint = variables.get("HF_ENDPOINT", "")
    try:
        urlsplit(endpoint).port  # noqa: B018 - urllib parses the port only when it is read
    except ValueError as error:
        hint = "give one such as https://huggingface.co, or unset it"
        raise HubError(f"{short(endpoint)} is no address ({error})", where="HF_ENDPOINT", hint=hint) from error
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        try:
            int(variables.get(name, "10"))
        except ValueError as error:
            what = f"{short(variables[name])} is no whole number of seconds"
            raise HubError(what, where=name, hint="give one such as 10, or unset it") from error
