"""Who sees whom by a rule of places: windows, chunks, sinks."""
