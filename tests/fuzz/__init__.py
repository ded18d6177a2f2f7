"""Reads what a coverage-guided fuzzer makes up: ``make fuzz``."""
