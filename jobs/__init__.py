"""The commands: parse, configure, call, report, exit code."""
