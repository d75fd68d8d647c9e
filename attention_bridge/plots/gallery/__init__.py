"""Pictures of every mask and every mechanism of the catalogue on one small input.

| file           | contents                                                                      |
|----------------|-------------------------------------------------------------------------------|
| `sentence.py`  | the input: 24 words, some of them repeated, also used as a grid of 4 by 6     |
| `instances.py` | each mechanism's arguments, weights and inputs, the same in both frameworks   |
| `masks.py`     | each mask of the mirrors for these words                                      |
| `maps.py`      | the outputs of a mechanism as matrices from queries to keys                   |
| `drawing.py`   | the computation in either framework, and the panels of a poster               |
"""
