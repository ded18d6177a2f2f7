"""GPT-NeoX as an ONNX graph of ONNX Runtime's fused operators."""

import os

# Since 1.29 onnxruntime tells its makers about the machine and the names of models, unless this is set before it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
