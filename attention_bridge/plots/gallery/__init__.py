"""Every mask and every mechanism of the catalogue on one small input, to be looked at.

| file           | what it holds                                                                 |
|----------------|-------------------------------------------------------------------------------|
| `sentence.py`  | the input: 24 words, some of which come again, also seen as a grid of 4 by 6  |
| `instances.py` | each mechanism's arguments, weights and inputs, the same in both frameworks   |
| `masks.py`     | each mask of the mirrors on these words                                       |
| `maps.py`      | what a mechanism returned, as matrices from queries to keys                   |
| `drawing.py`   | all of it in either framework, and as panels of a poster                      |
"""
