"""Modules that the comparisons with peers share: environments, result files, watched processes, the reference."""
