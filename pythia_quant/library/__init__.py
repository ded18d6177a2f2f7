"""What Python programs call: load, quantize, run, and the results as mappings and tables."""
