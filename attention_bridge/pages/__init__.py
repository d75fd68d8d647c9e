"""Pages of docs/ that are printed from what runs."""
