"""onnxruntime, which reports nothing to its makers.

Since 1.29 its wheels for Linux tell them about the machine and the names of models, from the moment that the library is
loaded, unless a variable is set before.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
