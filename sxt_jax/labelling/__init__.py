"""Dense labels from sparse ones."""
