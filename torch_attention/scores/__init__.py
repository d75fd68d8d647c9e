"""Other ways from scores to weights."""
