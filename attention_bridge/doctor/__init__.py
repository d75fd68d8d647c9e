"""Why a port of attention gives other numbers than its reference.

A port that is wrong computes with the reference's weights in a wrong way: with a matrix that is not transposed, a
mask upside down, heads in another order. The doctor has a layer of its own, in numpy and float64; it makes every
mistake that it knows in it, alone and then in pairs, and names those that give the port's numbers, with the cure:

```python
from attention_bridge.doctor import Setting, diagnose

diagnosis = diagnose(
    reference_outputs, port_outputs, x=x, weights=state_dict, setting=Setting(num_heads=4, is_causal=True)
)
print(diagnosis.verdict)
```

`port_outputs` may be the port itself, a function from weights to outputs; then it is asked a second time where the
first leaves several mistakes possible. `weights` have the hub's names, those of the PyTorch mirror; for others
there is `attention_bridge.weights.convert`. Neither framework is needed.

The command does the same for a file, `.npz` or `.safetensors`, that holds `x`, `reference`, `candidate`, the weights,
and `memory` and `mask` where there are any:

```sh
attention-bridge doctor case.npz --heads 4 --causal
```

| file           | what it holds                                            |
|----------------|----------------------------------------------------------|
| `setting.py`   | what a layer computes beside its weights                 |
| `port.py`      | a layer as it may have been ported                       |
| `layer.py`     | the doctor's computation of it                           |
| `suspects/`    | every mistake: a small function, its sign and its cure   |
| `case.py`      | what is given, checked                                   |
| `sample.py`    | the positions that stand for all of a long sequence      |
| `memo.py`      | results that many ports share                            |
| `budget.py`    | the time that a diagnosis may take, and its progress     |
| `yardstick.py` | what rounding explains in a dtype                        |
| `slight.py`    | mistakes that are hardly larger than rounding            |
| `search.py`    | alone, then in pairs                                     |
| `diagnosis.py` | what was found, in one sentence                          |
"""

from attention_bridge.doctor.diagnosis import Diagnosis, Finding
from attention_bridge.doctor.search import diagnose
from attention_bridge.doctor.setting import Setting
from attention_bridge.doctor.suspects import SUSPECTS, Suspect

__all__ = ["SUSPECTS", "Diagnosis", "Finding", "Setting", "Suspect", "diagnose"]
