"""Every mechanism against independent implementations, or with a reason why none exists."""

from pathlib import Path

import pytest

from attention_bridge.catalogue import CATALOGUE, Mechanism
from parity_tests.peers import Peer, measure, peers

PEERS = peers()


@pytest.mark.filterwarnings("default")  # warnings of the peers
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.mechanism}, {peer.name}")
def test_mirrors_equal_their_peers(peer: Peer) -> None:
    measured = measure(peer)
    print(measured)
    assert measured.torch_err <= measured.tolerance
    assert measured.jax_err <= measured.tolerance


@pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda mechanism: mechanism.name)
def test_mechanism_names_its_peers_or_says_why_it_has_none(mechanism: Mechanism) -> None:
    compared = tuple(peer.name for peer in PEERS if peer.mechanism == mechanism.name)
    assert sorted(mechanism.peers) == sorted(compared)
    assert bool(mechanism.peers) != bool(mechanism.no_peer)


@pytest.mark.parametrize("page", ["catalogue", "parity", "peers"])
def test_docs_page_names_every_mechanism(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    assert [mechanism.name for mechanism in CATALOGUE if f"| {mechanism.name} |" not in text] == []
