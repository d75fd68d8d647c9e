"""Weights between two modules of one's own: layers are found by their types, and aligned by names, numbers and shapes.

layers.py       a layer's tensors, and how their axes become PyTorch's
torch_walk.py   the layers of a PyTorch module
nnx_walk.py     the layers of a Flax NNX module
tree_walk.py    the layers of Linen and Haiku trees and of Equinox modules
naming.py       numbers in the names of modules, and words that mean the same
alignment.py    the pairs of layers; several possible pairs are a fault
carry.py        the tensors of aligned layers, from one module to the other
"""
