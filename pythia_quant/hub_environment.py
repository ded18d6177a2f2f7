"""What the environment says of a hub, checked before huggingface_hub reads it: that fails as it is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from pythia_quant.errors import HubError
from pythia_quant.printable import short


def check_hub_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse values that huggingface_hub cannot be imported with; what it can, is said where the hub is asked.

    Raises:
        HubError: naming the variable.
    """
    endpoint = environment.get("HF_ENDPOINT", "")
    try:
        urlsplit(endpoint).port  # noqa: B018 - it is looked at only when it is asked for
    except ValueError as error:
        hint = "give one such as https://huggingface.co, or unset it"
        raise HubError(f"{short(endpoint)} is no address ({error})", where="HF_ENDPOINT", hint=hint) from error
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        try:
            int(environment.get(name, "10"))
        except ValueError as error:
            what = f"{short(environment[name])} is no whole number of seconds"
            raise HubError(what, where=name, hint="give one such as 10, or unset it") from error
