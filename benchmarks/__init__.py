"""Measure what a bulk close costs: ``python -m benchmarks.bulk --help``."""
