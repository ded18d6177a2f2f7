"""Numerics: tensors in, integer codes and scales out."""
