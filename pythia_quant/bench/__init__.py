"""Measure artifacts against the fp16 baseline: drift, speed, memory and size."""
