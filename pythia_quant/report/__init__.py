"""Show what was measured."""
