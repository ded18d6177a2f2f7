"""Measure an artifact against its source."""
