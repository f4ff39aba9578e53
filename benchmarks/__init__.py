"""Reproducible timings; each is a command: `python -m benchmarks.NAME`."""
