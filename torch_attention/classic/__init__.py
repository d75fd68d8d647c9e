"""What came before and beside dot products: the attentions of recurrent networks."""

from torch_attention.classic.scores import ConcatScore as ConcatScore
from torch_attention.classic.scores import DotScore as DotScore
from torch_attention.classic.scores import GeneralScore as GeneralScore
