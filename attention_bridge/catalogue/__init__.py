"""The catalogue of mechanisms: the parity tests, `attention-bridge list` and the tables in `docs/` are made from it.

An entry has the equation and the paper of a mechanism, and the arguments and inputs of a small instance whose axes all
have different sizes. There is one file per family; nothing here imports PyTorch or JAX.
"""

from attention_bridge.catalogue.attention_basics import BASICS
from attention_bridge.catalogue.classic import CLASSIC_FAMILY
from attention_bridge.catalogue.cross_attention import CROSS
from attention_bridge.catalogue.delta import DELTA_FAMILY
from attention_bridge.catalogue.gates import GATES_FAMILY
from attention_bridge.catalogue.heads import HEADS_FAMILY
from attention_bridge.catalogue.latents import LATENTS_FAMILY
from attention_bridge.catalogue.linear import LINEAR_FAMILY
from attention_bridge.catalogue.low_rank import LOW_RANK_FAMILY
from attention_bridge.catalogue.mechanism import DTYPES as DTYPES
from attention_bridge.catalogue.mechanism import GROWTHS as GROWTHS
from attention_bridge.catalogue.mechanism import SIZES as SIZES
from attention_bridge.catalogue.mechanism import Mechanism as Mechanism
from attention_bridge.catalogue.mechanism import Paper as Paper
from attention_bridge.catalogue.models import MODELS
from attention_bridge.catalogue.part import Part as Part
from attention_bridge.catalogue.patterns import PATTERNS_FAMILY
from attention_bridge.catalogue.positions import POSITIONS_FAMILY
from attention_bridge.catalogue.scores import SCORES_FAMILY
from attention_bridge.catalogue.self_attention import SELF
from attention_bridge.catalogue.sparse import SPARSE_FAMILY
from attention_bridge.catalogue.vision import VISION_FAMILY
from attention_bridge.errors import UnknownMechanismError, unknown

CATALOGUE = (
    *BASICS,
    *SELF,
    *CROSS,
    *MODELS,
    *HEADS_FAMILY,
    *POSITIONS_FAMILY,
    *PATTERNS_FAMILY,
    *SCORES_FAMILY,
    *GATES_FAMILY,
    *LINEAR_FAMILY,
    *DELTA_FAMILY,
    *LOW_RANK_FAMILY,
    *SPARSE_FAMILY,
    *VISION_FAMILY,
    *LATENTS_FAMILY,
    *CLASSIC_FAMILY,
)


def select(names: list[str]) -> list[Mechanism]:
    """Return the mechanisms of these names, ignoring case; all mechanisms if `names` is empty.

    Raises:
        UnknownMechanismError: a name is not in the catalogue.
    """
    by_name = {mechanism.name.lower(): mechanism for mechanism in CATALOGUE}
    for name in names:
        if name.lower() not in by_name:
            known = (mechanism.name for mechanism in CATALOGUE)
            raise UnknownMechanismError(unknown("mechanism", name, known, "list"))
    return [by_name[name.lower()] for name in names] or list(CATALOGUE)
