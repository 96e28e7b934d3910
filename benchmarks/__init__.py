"""What closing many sessions costs: ``python -m benchmarks.bulk --help``."""
