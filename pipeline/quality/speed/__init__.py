"""`relatent bench speed`: seconds, memory and arithmetic of every way to invert and edit, on the same images."""
