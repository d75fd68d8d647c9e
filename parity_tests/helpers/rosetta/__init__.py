"""Runs what `attention_bridge.rosetta` states.

| file             | what it does                                            |
|------------------|---------------------------------------------------------|
| `calls.py`       | builds each peer, calls it, looks at who reaches whom   |
| `cases.py`       | which peers a test runs for; their signatures           |
| `defaults.py`    | reads defaults, or measures them                        |
| `mask_traps.py`  | makes the mistakes with masks, and cures them           |
| `layer_traps.py` | makes the others, and cures them                        |
| `proofs.py`      | what the proofs of traps share                          |
"""

from collections.abc import Callable

import numpy as np

from parity_tests.helpers.rosetta import layer_traps, mask_traps

PROOFS: dict[str, Callable[[np.random.Generator], None]] = {
    proof.__name__: proof
    for proof in (
        mask_traps.polarity,
        mask_traps.inverted,
        mask_traps.added_ones,
        mask_traps.eager_boolean,
        mask_traps.causal_replaced,
        mask_traps.three_axes,
        mask_traps.corner,
        mask_traps.hint,
        mask_traps.window,
        mask_traps.window_ahead,
        layer_traps.order,
        layer_traps.batch_first,
        layer_traps.transposed,
        layer_traps.fused,
        layer_traps.empty_rows,
        layer_traps.fast_path,
        layer_traps.mean_weights,
        layer_traps.shared_dropout,
        layer_traps.config,
        layer_traps.decay,
        layer_traps.unseen,
        layer_traps.unexplained,
    )
}
