"""Layers whose integers are solved on calibration text, for every format that stores them."""
