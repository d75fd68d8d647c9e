"""The benchmark of loading: its checkpoints have the asked sizes, all ways load the same bits, and peaks are peaks."""

import numpy as np
import pytest

from attention_bridge import checkpoints
from benchmarks.loading import CASES, MIB, WAYS, Case, Load, check_equal, compare, figures, make

LOAD = Load(seconds=2.0, peak=300 * MIB, held=100 * MIB, model=100 * MIB, elements=7, checksum=9, process=6.0)


def test_row_is_the_median_over_the_reference():
    loads = [LOAD, LOAD._replace(seconds=8.0, peak=900 * MIB), LOAD._replace(seconds=1.0, peak=200 * MIB)]
    reference = [LOAD._replace(seconds=4.0, process=8.0)]
    row = figures(CASES[0], "torch", 50 * MIB, loads, reference)
    assert row[2:] == (50.0, 300.0, 100.0, 3.0, 2.0, 0.5, 6.0, 0.75, True)
    assert not figures(CASES[0], "torch", 0, [LOAD._replace(peak=310 * MIB)], reference).light


@pytest.mark.parametrize("change", [{"model": 1}, {"elements": 8}, {"checksum": 10}])
def test_other_parameters_raise(change):
    check_equal([LOAD, LOAD._replace(seconds=1.0, peak=0, held=1)], CASES[0])
    with pytest.raises(RuntimeError, match="the models that were loaded differ"):
        check_equal([LOAD, LOAD._replace(**change)], CASES[0])


@pytest.mark.parametrize("case", [Case("float32", "float32"), Case("bfloat16", "float32", shards=4)], ids=str)
def test_checkpoint_has_the_asked_size_dtype_and_shards(tmp_path, case):
    make(tmp_path, case, 30 * MIB)
    with checkpoints.open(tmp_path) as reader:
        assert {spec.dtype.name for spec in reader.specs.values()} == {case.stored}
        elements = sum(int(np.prod(spec.shape)) for spec in reader.specs.values())
    assert elements * 4 == pytest.approx(30 * MIB, rel=0.15)
    assert len(list(tmp_path.glob("*.safetensors"))) == case.shards


@pytest.mark.slow
def test_all_ways_load_the_same_bits_and_the_peak_holds_the_model(tmp_path):
    rows = compare(Case("float32", "bfloat16"), 40 * MIB, turns=1, place=tmp_path)
    assert [row.way for row in rows] == list(WAYS)
    assert rows[0].ratio == 1.0
    assert not list(tmp_path.iterdir())
    for row in rows:
        assert row.file_mib == pytest.approx(40, rel=0.15)
        assert row.peak_mib >= row.held_mib >= 0.45 * row.file_mib
        assert row.copies == pytest.approx(row.peak_mib / (row.file_mib / 2), rel=0.01)
        assert row.process > row.seconds > 0
