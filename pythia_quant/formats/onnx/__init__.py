"""GPT-NeoX as an ONNX graph of ONNX Runtime's fused operators."""
