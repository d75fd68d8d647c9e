"""Certificates of the proofs of mechanisms."""

from __future__ import annotations

from collections.abc import Sequence

from attention_bridge.catalogue import Mechanism
from attention_bridge.parity import instances, proof
from attention_bridge.parity.certificates import hashes
from attention_bridge.parity.certificates.certificate import Certificate
from attention_bridge.parity.certificates.figures import figures
from attention_bridge.parity.verdict import Verdict

SEEDS = {"weights": instances.WEIGHTS_SEED, "inputs": instances.INPUTS_SEED}


class Prover:
    """Proves mechanisms one at a time, and certifies all that it has proven.

    Args:
        platform: platform that JAX runs on.
    """

    def __init__(self, platform: str = "cpu") -> None:
        self.platform = platform
        self._runs: list[dict[str, object]] = []
        self._faults: list[str] = []
        self._weights: dict[str, str] = {}
        self._dtypes: list[str] = []

    def prove(self, mechanism: Mechanism, dtype: str) -> Verdict:
        """Run the proof of one mechanism in one dtype, as `proof.prove` does."""
        measured = proof.measure_cases(mechanism, dtype, self.platform)
        for case, each in measured.items():
            inputs = proof.given_inputs(mechanism, case, dtype)
            self._runs.append(figures(f"{mechanism.name} {dtype}, {case}", each, inputs, SEEDS))
        self._faults += [f"{mechanism.name} {dtype}: {each}" for each in proof.wrong_slopes(mechanism)]
        self._weights[mechanism.name] = hashes.of_arrays(instances.parameters(mechanism))
        self._dtypes += [dtype] * (dtype not in self._dtypes)
        return proof.judged(mechanism, dtype, self.platform, measured)

    def certificate(self) -> Certificate:
        """The certificate of all mechanisms that were proven."""
        subject = {"names": [*self._weights], "dtypes": self._dtypes, "platform": self.platform}
        return Certificate.made("mechanisms", subject, self._weights, self._runs, self.platform, self._faults)


def certify_mechanisms(
    mechanisms: Sequence[Mechanism], dtypes: Sequence[str], platform: str = "cpu"
) -> Certificate:
    """Prove mechanisms in the dtypes that each has, and certify the proofs."""
    prover = Prover(platform)
    for mechanism in mechanisms:
        for dtype in dtypes:
            if dtype in mechanism.dtypes:
                prover.prove(mechanism, dtype)
                proof.forget_compiled()
    return prover.certificate()
