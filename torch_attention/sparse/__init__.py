"""Keys chosen by what they hold."""
