"""Make, check, open, fetch and run an artifact."""
