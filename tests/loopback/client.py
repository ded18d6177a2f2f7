"""The surroundings of a client of the hub."""

from __future__ import annotations

import os
from pathlib import Path

from loopback.hub import Hub


def client_environment(hub: Hub, home: Path, **extra: str | None) -> dict[str, str]:
    """Return the environment of a child process whose huggingface_hub talks to `hub` only.

    The client reads it when it is imported. A value of None takes the variable out.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    wanted = kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_secretsecretsecret",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        **extra,
    }
    return {key: value for key, value in wanted.items() if value is not None}
