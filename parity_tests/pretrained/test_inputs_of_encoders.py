"""Inputs that only some encoders have, against transformers: boxes on a page, global tokens, segments."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers import families
from parity_tests.helpers.family_cases import layoutlm, longformer, xlnet

ARRAYS = {"torch": torch.as_tensor, "jax": jnp.asarray}
BATCH, LENGTH = 2, 7
each_framework = pytest.mark.parametrize("framework", ARRAYS)


def compared(case, directory, framework, theirs, ours):
    """Deviation of the last hidden states at real tokens, and the bound."""
    built, given = families.model(case), families.inputs(case)
    built.save_pretrained(directory)
    bound = families.bound(built)
    tokens, there = torch.from_numpy(given["tokens"]).long(), torch.from_numpy(given["there"])
    with torch.no_grad():
        expected = built.double()(tokens, attention_mask=there.long(), **theirs).last_hidden_state
    array = ARRAYS[framework]
    model = load_pretrained(directory, framework)
    found = model(array(given["tokens"]), array(given["there"]), **{k: array(x) for k, x in ours.items()})
    found = families.numpy_of({"x": found.last_hidden_state})["x"]
    expected = np.where(given["there"][..., None], expected.numpy(), 0.0)
    found = np.where(given["there"][..., None], found, 0.0)
    return np.abs(found - expected).max() / np.abs(expected).max(), bound


@each_framework
def test_boxes_are_embedded_as_in_transformers(framework, tmp_path, rng):
    corner = rng.integers(0, 5, (BATCH, LENGTH, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 4, corner.shape)], -1).astype(np.int32)
    theirs = {"bbox": torch.from_numpy(boxes).long()}
    found, bound = compared(layoutlm.CASES["layoutlm"], tmp_path, framework, theirs, {"boxes": boxes})
    assert found <= bound


@each_framework
@pytest.mark.parametrize("name", ["longformer", "longformer, window of six, one type"])
def test_global_tokens_attend_to_all_as_in_transformers(name, framework, tmp_path):
    chosen = np.zeros((BATCH, LENGTH), bool)
    chosen[0, [0, 5]] = chosen[1, 2] = True  # unlike the first tokens of both texts
    theirs = {"global_attention_mask": torch.from_numpy(chosen).long()}
    found, bound = compared(longformer.CASES[name], tmp_path, framework, theirs, {"global_tokens": chosen})
    assert found <= bound


@each_framework
def test_segments_are_compared_as_in_transformers(framework, tmp_path, rng):
    types = rng.integers(0, 4, (BATCH, LENGTH)).astype(np.int32)
    theirs = {"token_type_ids": torch.from_numpy(types).long()}
    case = xlnet.CASES["xlnet"]
    found, bound = compared(case, tmp_path, framework, theirs, {"token_types": types})
    assert found <= bound
    found, bound = compared(case, tmp_path, framework, theirs, {})
    assert found > 1000 * bound


@each_framework
def test_padding_sees_itself_as_in_transformers(framework, tmp_path):
    """XLNet's classifiers read the last position, be it padding or not."""
    built, given = families.model(xlnet.CASES["xlnet"]), families.inputs(xlnet.CASES["xlnet"])
    built.save_pretrained(tmp_path)
    bound, tokens = families.bound(built), torch.from_numpy(given["tokens"]).long()
    with torch.no_grad():
        there = torch.from_numpy(given["there"]).long()
        expected = built.double()(tokens, attention_mask=there).last_hidden_state.numpy()
    model, array = load_pretrained(tmp_path, framework), ARRAYS[framework]
    found = model(array(given["tokens"]), array(given["there"])).last_hidden_state
    found = families.numpy_of({"x": found})["x"]
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize(
    "fields",
    [{"attn_type": "uni"}, {"bi_data": True}, {"clamp_len": 5}],
    ids=lambda fields: next(iter(fields)),
)
def test_other_directions_and_clamped_distances_of_xlnet_raise(tmp_path, fields):
    families.model(xlnet.CASES["xlnet"]).save_pretrained(tmp_path)
    ((name, value),) = fields.items()
    with pytest.raises(CheckpointError, match=f"must have {name} .*, got {value!r}"):
        load_pretrained(tmp_path, "torch", config=fields)


@each_framework
def test_inputs_that_an_encoder_does_not_have_raise(framework, tmp_path):
    families.model(layoutlm.CASES["layoutlm"]).save_pretrained(tmp_path / "boxes")
    families.model(longformer.CASES["longformer"]).save_pretrained(tmp_path / "global")
    families.model(xlnet.CASES["xlnet"]).save_pretrained(tmp_path / "segments")
    array = ARRAYS[framework]
    tokens = array(np.full((1, 3), 4, np.int32))
    with_boxes = load_pretrained(tmp_path / "boxes", framework)
    with pytest.raises(ValueError, match="global_tokens must be None for attention without global tokens"):
        with_boxes(tokens, global_tokens=array(np.ones((1, 3), bool)))
    with pytest.raises(ValueError, match=r"boxes must have shape \(1, 3, 4\), got \(1, 2, 4\)"):
        with_boxes(tokens, boxes=array(np.zeros((1, 2, 4), np.int32)))
    with pytest.raises(ValueError, match="widths of boxes must be from 0 to below 9, got -1 to 0"):
        with_boxes(tokens, boxes=array(np.array([[[1, 0, 0, 0], [0] * 4, [0] * 4]], np.int32)))
    with pytest.raises(ValueError, match="boxes must be None for a model with num_coordinates=None"):
        load_pretrained(tmp_path / "global", framework)(tokens, boxes=array(np.zeros((1, 3, 4), np.int32)))
    with pytest.raises(ValueError, match="token_types must be from 0 to below 4, got 0 to 4"):
        load_pretrained(tmp_path / "segments", framework)(
            tokens, token_types=array(np.array([[0, 4, 0]], np.int32))
        )
