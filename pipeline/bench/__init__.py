"""Benchmarks of the job as a whole."""
