"""Diagnose why the outputs of a ported attention layer, or of a whole model, differ from its reference.

A faulty port uses the reference's weights incorrectly: a matrix is not transposed, a mask is inverted, the heads are
in another order. The doctor computes the layer itself, in numpy and float64. It plants every mistake that it knows,
first alone and then in pairs, and names those that reproduce the port's outputs, with the cure:

```python
from attention_bridge.doctor import Setting, diagnose

diagnosis = diagnose(
    reference_outputs, port_outputs, x=x, weights=state_dict, setting=Setting(num_heads=4, is_causal=True)
)
print(diagnosis.verdict)
```

`port_outputs` may also be the port itself, a function from weights to outputs; it is then called a second time if the
first outputs leave several mistakes possible. `weights` have the names of the canonical layout, as in the PyTorch
mirror; `attention_bridge.weights.convert` converts other names. Neither framework is needed.

Two whole models, of the mirrors, of transformers or one's own, are diagnosed submodule by submodule:

```python
diagnosis = diagnose(torch_model, jax_model, tokens)
print(diagnosis.verdict)  # in `layers.1.attention` the port does not scale the scores ...
```

The command diagnoses a `.npz` or `.safetensors` file that holds `x`, `reference`, `candidate`, the weights, and
optionally `memory` and `mask`:

```sh
attention-bridge doctor case.npz --heads 4 --causal
```

| file           | contents                                                 |
|----------------|----------------------------------------------------------|
| `setting.py`   | hyperparameters of the reference layer                   |
| `port.py`      | a layer as it may have been ported, right or wrong       |
| `layer.py`     | the computation of a port in numpy                       |
| `suspects/`    | the known mistakes: a small function, its sign, its cure |
| `case.py`      | checks of the inputs                                     |
| `sample.py`    | a sample of the positions of a long sequence             |
| `memo.py`      | cache of results that many ports share                   |
| `budget.py`    | time limit and progress of a diagnosis                   |
| `yardstick.py` | error bounds that rounding explains, per dtype           |
| `slight.py`    | mistakes hardly larger than rounding                     |
| `search.py`    | the search over mistakes and pairs of them               |
| `diagnosis.py` | the result, with a one-sentence verdict                  |
| `entry.py`     | `diagnose` of a layer or of whole models                 |
| `models/`      | the diagnosis of whole models                            |
"""

from attention_bridge.doctor.diagnosis import Diagnosis, Finding
from attention_bridge.doctor.entry import diagnose
from attention_bridge.doctor.setting import Setting
from attention_bridge.doctor.suspects import SUSPECTS, Suspect

__all__ = ["SUSPECTS", "Diagnosis", "Finding", "Setting", "Suspect", "diagnose"]
