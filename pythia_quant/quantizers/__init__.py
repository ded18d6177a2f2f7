"""Numerics: tensors in, integer codes and scales out. No module here knows a file or a model."""
