"""compressed-tensors, ``pack-quantized``: the layout that transformers and vLLM read without gptqmodel."""
