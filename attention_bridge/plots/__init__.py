"""Pictures of attention.

Attention weights and masks have one row per query and one column per key, and come from either framework or numpy:
row i shows the keys that query i attends to. matplotlib draws without a display and without global state.

| function          | draws                                                                          |
|-------------------|--------------------------------------------------------------------------------|
| `plot`            | attention weights into a file, as a picture or an interactive page             |
| `head_grid`       | every head of one layer or several layers                                      |
| `one_head`        | one head, or the mean over heads, with a label for each token                  |
| `alignment`       | the alignment of target and source tokens of a translation                     |
| `alignments`      | several alignments on one sheet                                                |
| `image_overlay`   | the attention of one token over the patches of an image                        |
| `rollout_overlay` | the attention rollout of one token through all layers, over an image           |
| `lit_images`      | several images and the attention of one or more models over each               |
| `comparison`      | attention weights from PyTorch, from JAX, and their difference                 |
| `draw_mask`       | a mask                                                                         |
| `poster`          | many matrices in groups                                                        |
| `curves`          | the loss of one run, or of two runs and their difference                       |
| `save`            | writes a figure as PNG, SVG or PDF                                             |
| `html`            | an interactive page of attention weights; `write_html` writes it to a file     |

`weights` are the attention weights that a module returns, `(..., heads, query, key)`, of which one element of the batch
is drawn, or a matrix `(query, key)`. Functions that draw several layers take a list of these.
"""

from attention_bridge.plots.comparing import comparison
from attention_bridge.plots.files import save
from attention_bridge.plots.grids import head_grid
from attention_bridge.plots.heads import alignment, alignments, one_head
from attention_bridge.plots.image_attention import lit_images
from attention_bridge.plots.images import image_overlay, rollout_overlay
from attention_bridge.plots.losses import curves
from attention_bridge.plots.masks import draw_mask
from attention_bridge.plots.pages import html, write_html
from attention_bridge.plots.posters import Panel, poster
from attention_bridge.plots.rollouts import rollout
from attention_bridge.plots.style import HIDDEN, SEEN, heatmap
from attention_bridge.plots.to_file import plot

__all__ = [
    "HIDDEN",
    "SEEN",
    "Panel",
    "alignment",
    "alignments",
    "comparison",
    "curves",
    "draw_mask",
    "head_grid",
    "heatmap",
    "html",
    "image_overlay",
    "lit_images",
    "one_head",
    "plot",
    "poster",
    "rollout",
    "rollout_overlay",
    "save",
    "write_html",
]
