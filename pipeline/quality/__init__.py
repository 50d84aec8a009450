"""Measures of edits, and the benchmark that knows the true edited image."""
