"""Pictures of attention.

An array of weights or a mask has a row for every query and a column for every key, and comes from either framework
or from numpy: row i shows where query i looks. matplotlib draws without a screen and keeps no global state here.

| function          | draws                                                                          |
|-------------------|--------------------------------------------------------------------------------|
| `plot`            | weights into a file, as the picture or page that fits them                     |
| `head_grid`       | every head of a layer, or of several layers                                    |
| `one_head`        | one head, or the mean over heads, with a label for each token                  |
| `alignment`       | target against source tokens, as papers on translation do                      |
| `alignments`      | several of these on one sheet                                                  |
| `image_overlay`   | what one token looks at in an image that was cut into patches                  |
| `rollout_overlay` | the same through all layers, by `rollout`                                      |
| `lit_images`      | several images, and where one model or two look in each                        |
| `comparison`      | PyTorch, JAX and their difference                                              |
| `draw_mask`       | a mask                                                                         |
| `poster`          | very many matrices, in groups                                                  |
| `curves`          | losses of a run, or of two and their difference                                |
| `save`            | writes one of these as PNG, SVG or PDF                                         |
| `html`            | a page to point at tokens in; `write_html` writes it                           |

`weights` is what a module returns, `(..., heads, query, key)`, of which one element of the batch is drawn, or a
matrix `(query, key)`; where several layers can be drawn, a list of these.
"""

from attention_bridge.plots.choosing import plot
from attention_bridge.plots.comparing import comparison
from attention_bridge.plots.files import save
from attention_bridge.plots.grids import head_grid
from attention_bridge.plots.heads import alignment, alignments, one_head
from attention_bridge.plots.images import image_overlay, rollout_overlay
from attention_bridge.plots.lit import lit_images
from attention_bridge.plots.losses import curves
from attention_bridge.plots.masks import draw_mask
from attention_bridge.plots.pages import html, write_html
from attention_bridge.plots.posters import Panel, poster
from attention_bridge.plots.rollouts import rollout
from attention_bridge.plots.style import HIDDEN, SEEN, heatmap

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
