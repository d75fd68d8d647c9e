"""What compilers of accelerators make of the mechanisms, and faults of compilers that are known."""
