"""GPTQ version 1: the file layout that transformers, gptqmodel and most servers read."""
