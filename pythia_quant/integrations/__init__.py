"""Where other programs run our artifacts."""
