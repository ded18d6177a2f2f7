"""Models made hard to quantize, texts of four kinds and little calibration: what our methods cost there."""
