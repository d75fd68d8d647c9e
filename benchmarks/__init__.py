"""Speed of both mirrors, side by side."""
