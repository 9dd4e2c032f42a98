"""What may happen to a store, done to it on purpose: ``python -m benchmarks.torture``."""
