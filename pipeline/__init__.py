"""relatent: text-guided editing of real photographs, in bulk."""
