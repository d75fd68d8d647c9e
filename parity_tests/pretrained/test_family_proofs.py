"""Every family beyond its outputs: hidden states, attention maps, padding, cached generation, gradients, bfloat16.

One configuration of each family, drawn by the commit, which also draws those that are proved in JAX, too;
`make prove-families` proves all configurations in both frameworks.
"""

import pytest
from safetensors.numpy import load_file, save_file

from attention_bridge.pretrained.families.fields import Fields
from parity_tests.helpers.families import CASES, marks
from parity_tests.helpers.family_draws import drawn_cases
from parity_tests.helpers.prove_families import draws
from parity_tests.helpers.share import share
from parity_tests.helpers.text_proof import proof

DRAWN = drawn_cases()
QUICK = share(DRAWN, 6)  # in PyTorch
IN_JAX = share(DRAWN, 8)


@pytest.fixture(scope="module")
def proofs(tmp_path_factory):
    """A function that returns the proof of a case, made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = proof(CASES[name], tmp_path_factory.mktemp("proof"))
        return made[name]

    return of


each_model = pytest.mark.parametrize(
    ("name", "framework"),
    [
        pytest.param(name, framework, marks=marks(name, (name,) if quick else ()))
        for name in DRAWN
        for framework, quick in (("torch", name in QUICK), ("jax", False))
        if framework == "torch" or name in IN_JAX
    ],
)


def check(deviations):
    found = list(deviations)
    assert found
    wrong = [each for each in found if not each.found <= each.allowed]
    assert not wrong, wrong


@each_model
def test_states_maps_padding_and_generation_are_those_of_transformers(proofs, name, framework):
    check(proofs(name).deviations(framework))


@each_model
def test_bfloat16_is_as_near_to_float64_as_transformers_is(proofs, name, framework):
    check(proofs(name).in_bfloat16(framework))


@each_model
def test_gradients_are_those_of_transformers(proofs, name, framework):
    check(proofs(name).gradients(framework))


@pytest.mark.parametrize("name", ["llama", "roberta", "t5"])
def test_a_changed_layer_is_found_by_every_check(tmp_path, name):
    """The checks can fail: values of one layer are half as large again in the file that our model reads."""
    made = proof(CASES[name], tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    changed = next(
        each for each in sorted(tensors, reverse=True) if "v_proj" in each or "value" in each or ".v." in each
    )
    expected = {**tensors, changed: tensors[changed] * 1.5}
    for check_of in (made.deviations, made.gradients):
        save_file(expected, path, {"format": "pt"})
        with pytest.raises(AssertionError):
            check(check_of("torch"))
    save_file(tensors, path, {"format": "pt"})
    check(made.deviations("torch"))


def test_draws_find_a_field_that_is_read_wrongly(monkeypatch):
    """A reader that forgets one field gives other outputs in some draw."""
    read = Fields.number

    def forgetful(self, *names, **options):
        value = read(self, *names, **options)
        return 1e-6 if names == ("rms_norm_eps",) else value

    monkeypatch.setattr(Fields, "number", forgetful)
    assert draws("llama", 40).wrong
    monkeypatch.undo()
    assert not draws("llama", 40).wrong
