"""Certificates: the figures of a comparison in a file, with all that repeats it.

`Certificate` is the file, `checking` compares it with a repetition; neither needs a framework. `modules` certifies two
models, `mechanisms` a proof of the catalogue, and `attention_bridge.pretrained.certification` a conversion of files.
"""

from attention_bridge.parity.certificates.certificate import Certificate as Certificate
