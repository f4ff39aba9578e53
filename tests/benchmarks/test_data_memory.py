"""Memory of runs of two sizes, in processes of their own."""

import pytest

from benchmarks import data_memory


@pytest.mark.slow
def test_memory_grows_with_cached_examples_and_not_with_uncached_ones(tmp_path):
    few, many = 500, 4000
    found = {}
    for count in (few, many):
        folder = tmp_path / str(count)
        folder.mkdir()
        settings = data_memory.SOURCES["csv"](folder, count)
        found[count] = {
            cache: data_memory.peak_bytes(settings, cache) for cache in ("memory", "none")
        }
    held_bytes = (many - few) * 30_000
    assert found[many]["memory"] - found[few]["memory"] > held_bytes
    assert found[many]["none"] - found[few]["none"] < 0.3 * held_bytes
