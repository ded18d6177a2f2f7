"""Publishing artifacts with a card, pulling them back, and what a hub says of a checkpoint's revisions."""

SCHEME = "hf://"
"""Begins the name of an artifact on a hub: ``hf://owner/name@revision``."""
