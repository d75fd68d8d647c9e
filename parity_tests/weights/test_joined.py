"""Joined rules: a fused tensor whose parts have different numbers of rows, in one block or in several."""

import numpy as np
import pytest

from attention_bridge.weights.explanation import words
from attention_bridge.weights.joined import JoinedRule
from attention_bridge.weights.placeholders import ghost, is_ghost

AXES = {"heads": 3, "groups": 1, "dim": 4, "two": 2}
FLAT = JoinedRule("{path}qkv.{name}", "{path}{q,k,v}_proj.{name}", "heads dim, groups dim, groups dim")
BLOCKS = JoinedRule("qz.weight", "{q,z}_proj.weight", "dim, two dim", blocks="heads")


class TestJoinedRule:
    def test_parts_are_consecutive_rows(self):
        (move,) = FLAT.to_hub
        assert move.match("a.qkv.bias") == (
            ["a.qkv.bias"],
            ["a.q_proj.bias", "a.k_proj.bias", "a.v_proj.bias"],
        )
        fused = np.arange(20 * 5).reshape(20, 5)
        parts = move.apply([fused], AXES)
        assert [part.shape for part in parts] == [(12, 5), (4, 5), (4, 5)]
        np.testing.assert_array_equal(np.concatenate(parts), fused)
        np.testing.assert_array_equal(move.inverse().apply(parts, AXES)[0], fused)

    def test_parts_repeat_in_each_block(self):
        (move,) = BLOCKS.to_hub
        fused = np.arange(3 * 12 * 2).reshape(36, 2)
        query, gate = move.apply([fused], AXES)
        rows = fused.reshape(3, 12, 2)
        np.testing.assert_array_equal(query, rows[:, :4].reshape(12, 2))
        np.testing.assert_array_equal(gate, rows[:, 4:].reshape(24, 2))
        np.testing.assert_array_equal(move.inverse().apply([query, gate], AXES)[0], fused)

    def test_parts_may_be_in_the_outside_layout(self):
        (move,) = JoinedRule("{k,v}.{name}", "both.{name}", "groups dim, heads").to_hub
        assert move.match("v.weight") == (["k.weight", "v.weight"], ["both.weight"])
        parts = [np.arange(8).reshape(4, 2), np.arange(6).reshape(3, 2)]
        (fused,) = move.apply(parts, AXES)
        np.testing.assert_array_equal(fused, np.concatenate(parts))
        for part, expected in zip(move.inverse().apply([fused], AXES), parts, strict=True):
            np.testing.assert_array_equal(part, expected)

    def test_ghosts_stay_ghosts(self):
        (move,) = BLOCKS.to_hub
        parts = move.apply([ghost((36, 2), np.dtype("float32"))], AXES)
        assert [part.shape for part in parts] == [(12, 2), (24, 2)]
        assert all(map(is_ghost, (*parts, *move.inverse().apply(parts, AXES))))

    def test_unknown_axes_are_named(self):
        (move,) = BLOCKS.to_hub
        assert move.unknown_axes({"dim": 4}) == ["heads", "two"]

    @pytest.mark.parametrize("shape", [(35, 2), (37, 2), ()])
    def test_wrong_number_of_rows_raises(self, shape):
        with pytest.raises(ValueError, match="do not fit"):
            BLOCKS.to_hub[0].apply([np.zeros(shape)], AXES)

    def test_parts_of_other_dtypes_raise(self):
        parts = [np.zeros((12, 2)), np.zeros((24, 2), np.float32)]
        with pytest.raises(ValueError, match="do not fit"):
            BLOCKS.to_hub[0].inverse().apply(parts, AXES)

    def test_parts_without_blocks_may_be_cut_anywhere(self):
        parts = [np.arange(7), np.arange(7), np.arange(6)]
        (fused,) = FLAT.to_hub[0].inverse().apply(parts, AXES)
        np.testing.assert_array_equal(fused, np.concatenate(parts))
        with pytest.raises(ValueError, match="do not fit"):
            FLAT.to_hub[0].inverse().apply([*parts[:2], np.arange(7)], AXES)

    def test_each_part_needs_its_rows(self):
        with pytest.raises(ValueError, match="rows of each of several parts"):
            JoinedRule("qkv", "{q,k,v}", "dim, dim")

    def test_pattern_and_words(self):
        (move,) = BLOCKS.to_hub
        assert move.pattern == "(heads (dim + two dim)) ... -> (heads dim) ..., (heads two dim) ..."
        assert words(move.pattern) == "cut axis 0 into parts of (heads (dim + two dim)) rows"
        assert words(move.inverse().pattern) == "join the rows (heads dim), (heads two dim) into axis 0"
        assert FLAT.within("backbone").to_hub[0].match("qkv.bias")[1][0] == "backbone.q_proj.bias"
