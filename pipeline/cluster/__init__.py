"""The stages as a Ray Data graph. The only part of the project that knows Ray."""
