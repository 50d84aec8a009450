"""What keeps an output small: removing what its job no longer asks for, and merging small files."""
