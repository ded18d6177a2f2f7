"""A study: one protocol over many checkpoints and variants, on this machine or a cluster."""
