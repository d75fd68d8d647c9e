"""Certificates of two modules and of mechanisms: equal bytes twice, and edits that a check finds."""

import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from typer.testing import CliRunner

from attention_bridge import certify
from attention_bridge.catalogue import select
from attention_bridge.cli import app
from attention_bridge.errors import InputError
from attention_bridge.parity.certificates import Certificate, hashes
from attention_bridge.parity.certificates.certificate import check_path
from attention_bridge.parity.certificates.checking import compared, consistency
from attention_bridge.parity.certificates.figures import is_attention_map, top1
from attention_bridge.parity.certificates.mechanisms import certify_mechanisms
from attention_bridge.parity.measure import ulps
from attention_bridge.pretrained.certification import check_certificate
from attention_bridge.weights.layout_files import layout_from
from attention_bridge.weights.layout_text import WITHOUT_TOML, toml_of
from attention_bridge.weights.layouts import LAYOUTS

X = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)


class InTorch(torch.nn.Module):
    """A linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(5, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.proj(x))


class InJAX(nnx.Module):
    """The same layer in JAX."""

    def __init__(self) -> None:
        self.proj = nnx.Linear(5, 7, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.proj(x))


def pair() -> tuple[InTorch, InJAX]:
    rng, ours, theirs = np.random.default_rng(1), InTorch(), InJAX()
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((7, 5), (7,)))
    ours.load_state_dict({"proj.weight": torch.from_numpy(weight), "proj.bias": torch.from_numpy(bias)})
    theirs.proj.kernel[...] = jnp.asarray(weight.T)
    change_bias(theirs, lambda _: jnp.asarray(bias))
    return ours, theirs


def change_bias(module: InJAX, change: Callable[[jax.Array], jax.Array]) -> None:
    bias = module.proj.bias
    assert bias is not None
    bias[...] = change(bias[...])


@pytest.fixture(scope="module")
def of_modules() -> Certificate:
    return certify(*pair(), X)


@pytest.fixture(scope="module")
def of_mechanism() -> Certificate:
    return certify_mechanisms(select(["LuongAttention-dot"]), ["float32"])


def edited(certificate: Certificate, value: Any, *path: Any) -> Certificate:
    content: Any = copy.deepcopy(dict(certificate.content))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    return Certificate(content)


def failing(findings: Any) -> list[str]:
    return [each.subject for each in findings if not each.ok]


def one_ulp_more(module: InTorch) -> InTorch:
    with torch.no_grad():
        module.proj.weight[3, 2] = torch.nextafter(module.proj.weight[3, 2], torch.tensor(9.0))
    return module


class TestModules:
    def test_two_certificates_have_equal_bytes(self, of_modules: Certificate, tmp_path: Path) -> None:
        again = certify(*pair(), X)
        assert again.text == of_modules.text
        again.save(tmp_path / "cert.json")
        assert Certificate.read(tmp_path / "cert.json") == again
        assert (tmp_path / "cert.json").read_text() == again.text
        again.save(tmp_path / "cert.json")

    def test_certificate_has_hashes_errors_and_bound(self, of_modules: Certificate) -> None:
        assert of_modules.ok
        (run,) = of_modules.content["runs"]
        assert run["inputs"] == {"x": hashes.of_array(X)}
        assert run["seeds"] == {"inputs": None}
        assert run["errors"]["attention map"] is None
        for kind in ("output", "gradient"):
            for side in ("torch", "jax"):
                assert 0 < run["errors"][kind][side]["relative"] <= run["bound"][kind]
        assert run["errors"]["gradient"]["tensors"] == 3
        assert run["top1"] == {"positions": 6, "equal": 6}

    def test_seed_of_drawn_inputs_is_recorded(self) -> None:
        certificate = certify(*pair(), jax.ShapeDtypeStruct((2, 3, 5), np.float32))
        assert certificate.content["runs"][0]["seeds"] == {"inputs": 0}

    def test_weight_that_differs_by_one_ulp_is_found(self, of_modules: Certificate) -> None:
        ours, theirs = pair()
        again = certify(one_ulp_more(ours), theirs, X)
        assert again.ok
        assert failing(compared(of_modules, again)) == ["weights", "figures"]
        assert failing(compared(of_modules, certify(*pair(), X))) == []

    def test_wrong_model_has_a_verdict_that_is_not_ok(self) -> None:
        ours, theirs = pair()
        change_bias(theirs, lambda bias: 1.001 * bias)
        certificate = certify(ours, theirs, X)
        assert not certificate.ok
        assert failing(consistency(certificate)) == ["verdict"]
        forged = edited(certificate, {"ok": True, "sentence": "equal"}, "verdict")
        assert failing(consistency(forged)) == ["consistency"]

    def test_infinite_error_survives_the_file(self, tmp_path: Path) -> None:
        ours, theirs = pair()
        change_bias(theirs, lambda bias: bias.at[0].set(jnp.nan))
        certificate = certify(ours, theirs, X)
        certificate.save(tmp_path / "cert.json")
        assert "Infinity" not in certificate.text
        assert Certificate.read(tmp_path / "cert.json") == certificate
        assert not certificate.ok

    def test_check_repeats_models_of_a_python_file(self, of_modules: Certificate, tmp_path: Path) -> None:
        of_modules.save(tmp_path / "cert.json")
        findings = check_certificate(tmp_path / "cert.json", models=lambda: certify(*pair(), X))
        assert failing(findings) == []
        assert failing(check_certificate(tmp_path / "cert.json")) == ["repetition"]
        assert failing(check_certificate(tmp_path / "cert.json", quick=True)) == []

    def test_command_runs_the_function_of_a_python_file(
        self, of_modules: Certificate, tmp_path: Path
    ) -> None:
        of_modules.save(tmp_path / "cert.json")
        (tmp_path / "port.py").write_text(
            "from pathlib import Path\n"
            "from attention_bridge.parity import Certificate\n"
            "def again():\n    return Certificate.read(Path(__file__).with_name('cert.json'))\n"
            "def other():\n    return 3\n"
            "def broken():\n    raise ValueError('no weights')\n"
            "number = 3\n"
        )

        def check(name: str) -> Any:
            models = f"{tmp_path / 'port.py'}:{name}"
            return CliRunner().invoke(app, ["check", str(tmp_path / "cert.json"), "--models", models])

        assert check("again").exit_code == 0
        assert "must return a Certificate, got int" in check("other").stdout
        assert "broken in " in check("broken").stdout
        assert "fails: ValueError: no weights" in check("broken").stdout
        assert check("number").exit_code == 2


class TestMechanisms:
    def test_check_repeats_the_proof(self, of_mechanism: Certificate, tmp_path: Path) -> None:
        of_mechanism.save(tmp_path / "cert.json")
        assert len(of_mechanism.content["runs"]) == 10
        assert of_mechanism.content["runs"][0]["seeds"] == {"weights": 1, "inputs": 2}
        assert of_mechanism.content["runs"][0]["errors"]["attention map"]["tensors"] == 1
        assert failing(check_certificate(tmp_path / "cert.json")) == []

    def test_edited_error_is_found_by_the_repetition(self, of_mechanism: Certificate) -> None:
        smaller = edited(of_mechanism, 1e-12, "runs", 4, "errors", "output", "jax", "relative")
        assert failing(consistency(smaller)) == []
        assert failing(compared(smaller, of_mechanism)) == ["figures"]

    def test_edited_bound_is_found_without_a_run(self, of_mechanism: Certificate) -> None:
        wider = edited(of_mechanism, 0.5, "runs", 2, "bound", "output")
        assert failing(consistency(wider)) == ["consistency"]

    def test_bound_edited_with_its_derivation_is_found_by_the_repetition(
        self, of_mechanism: Certificate
    ) -> None:
        terms = of_mechanism.content["runs"][2]["bound"]["terms"]
        wider = edited(of_mechanism, 4 * terms, "runs", 2, "bound", "terms")
        for kind in ("output", "gradient"):
            wider = edited(wider, 2 * wider.content["runs"][2]["bound"][kind], "runs", 2, "bound", kind)
        assert failing(consistency(wider)) == []
        assert failing(compared(wider, of_mechanism)) == ["figures"]

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("runs", 0, "inputs", "query"), "0" * 64),
            (("runs", 0, "seeds", "inputs"), 3),
            (("weights", "LuongAttention-dot"), "0" * 64),
            (("runs", 1, "results", "jax"), "0" * 64),
            (("subject", "platform"), "gpu"),
        ],
    )
    def test_edited_field_is_found_by_the_repetition(
        self, of_mechanism: Certificate, path: tuple[Any, ...], value: Any
    ) -> None:
        assert failing(compared(edited(of_mechanism, value, *path), of_mechanism))

    def test_other_versions_need_errors_within_the_bound_only(self, of_mechanism: Certificate) -> None:
        older = edited(of_mechanism, "2.0", "environment", "versions", "torch")
        other = edited(older, 1e-12, "runs", 4, "errors", "output", "jax", "relative")
        findings = compared(other, of_mechanism)
        assert failing(findings) == []
        assert "another environment: torch 2.0 -> " in findings[-1].reason
        worse = edited(older, 1e-3, "runs", 4, "errors", "output", "jax", "relative")
        assert failing(compared(worse, of_mechanism)) == ["figures"]
        terms = edited(older, 9, "runs", 4, "bound", "terms")
        assert failing(compared(terms, of_mechanism)) == ["exact figures"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("{", "must be a certificate in JSON, but it is no JSON"),
            ("[]", "must be a certificate, a JSON object with a field schema"),
            ('{"schema": "attention-bridge/certificate/9"}', "must have the schema"),
            ('{"schema": "attention-bridge/certificate/1", "kind": "x"}', "must have a kind of conversion"),
            ('{"schema": NaN}', "NaN is no number of JSON"),
            ('{"schema": 1, "schema": 2}', "an object has a field twice"),
        ],
    )
    def test_file_that_is_no_certificate_raises(self, text: str, sentence: str, tmp_path: Path) -> None:
        (tmp_path / "cert.json").write_text(text)
        done = CliRunner().invoke(app, ["check", str(tmp_path / "cert.json")])
        assert (done.exit_code, done.stdout) == (2, "")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
        with pytest.raises(InputError, match="is no certificate; it was left as it is"):
            check_path(tmp_path / "cert.json")

    def test_missing_file_raises(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["check", str(tmp_path / "cert.json")])
        assert (done.exit_code, done.stdout) == (2, "")
        assert "cert.json cannot be read: No such file" in done.stderr

    def test_missing_unknown_and_wrong_fields_raise(self, of_modules: Certificate, tmp_path: Path) -> None:
        def message(content: Any) -> str:
            (tmp_path / "cert.json").write_text(json.dumps(content))
            with pytest.raises(InputError) as raised:
                Certificate.read(tmp_path / "cert.json")
            return str(raised.value)

        content: Any = json.loads(of_modules.text)
        del content["runs"][0]["bound"]["terms"]
        assert message(content).endswith("lacks the field runs[0].bound.terms; certify again")
        content["runs"][0]["bound"]["terms"] = -1
        assert "runs[0].bound.terms must be an integer of at least 0, got -1" in message(content)
        content["runs"][0]["bound"]["terms"] = 3
        content["subject"]["more"] = ""
        assert message(content).endswith("has an unknown field subject.more")

    def test_name_without_json_or_directory_raises(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"must end in \.json, got cert\.txt"):
            check_path("cert.txt")
        with pytest.raises(InputError, match="is not a directory"):
            check_path(tmp_path / "none" / "cert.json")

    @pytest.mark.parametrize(
        ("models", "sentence"),
        [
            ("mine.py", "--models must be a file and a function"),
            ("mine.py:made", "cannot be read: there is no such Python file"),
        ],
    )
    def test_models_that_are_no_function_raise(
        self, of_modules: Certificate, models: str, sentence: str, tmp_path: Path
    ) -> None:
        of_modules.save(tmp_path / "cert.json")
        done = CliRunner().invoke(app, ["check", str(tmp_path / "cert.json"), "--models", models])
        assert done.exit_code == 2
        assert sentence in done.stderr


def test_ulps_count_units_in_the_last_place_of_the_scale() -> None:
    for scale in (1.0, 1.5, 3.7e-5, 2.0**20):
        spacing = float(np.spacing(np.float32(scale)))
        assert ulps(3 * spacing / scale, scale, "float32") == pytest.approx(3)
    assert ulps(0.0, 0.0, "float32") == 0
    assert ulps(np.inf, 1.0, "bfloat16") == np.inf


def test_attention_maps_are_recognised_by_name() -> None:
    names = ("weights", "weights.0", "cross_weights.1", "attentions.2", "output", "weight", "hidden_states.0")
    assert [is_attention_map(name) for name in names] == [True] * 4 + [False] * 3


def test_top1_counts_positions_with_the_same_largest_logit() -> None:
    logits = np.random.default_rng(3).normal(size=(2, 3, 7))
    other = logits.copy()
    other[1, 2, logits[1, 2].argmin()] = 9.0
    assert top1({"output": logits}, {"output": other}) == {"positions": 6, "equal": 5}
    assert top1({"weights": logits}, {"weights": other}) is None


def test_hash_depends_on_dtype_shape_name_and_each_bit() -> None:
    changed = X.copy()
    changed[1, 2, 4] = np.nextafter(changed[1, 2, 4], np.float32(9))
    arrays: list[dict[str, np.ndarray]] = [
        {"x": X},
        {"y": X},
        {"x": X.reshape(3, 2, 5)},
        {"x": X.view(np.int32)},
        {"x": changed},
    ]
    assert len({hashes.of_arrays(each) for each in arrays}) == len(arrays)
    assert hashes.of_arrays({"x": X, "y": X}) == hashes.of_arrays({"y": X, "x": X.copy(order="F")})


def test_every_layout_that_toml_can_hold_is_equal_after_toml() -> None:
    held = [each for each in LAYOUTS.values() if not any(getattr(each, name) for name in WITHOUT_TOML)]
    assert len(held) > 5
    for layout in held:
        assert layout_from(tomllib.loads(toml_of(layout)), "x.toml") == layout


def test_layout_with_functions_has_no_toml() -> None:
    with pytest.raises(InputError, match=r"the layout hf\.gpt2 cannot be written as TOML: it has constants"):
        toml_of(LAYOUTS["hf.gpt2"])
