"""The benchmark of recurrent layers times what it says it times."""

from __future__ import annotations

from benchmarks.recurrent import LAYERS, build, only_fallback
from training.privacy.rules.fallback import FallbackRule
from training.privacy.sites import find_sites


def test_only_fallback_takes_the_rules_away_for_its_time() -> None:
    for layer in LAYERS:
        model = build(layer, words=3, units=2)
        of_loop = [site for site in find_sites(model) if hasattr(site, "cell")]
        assert of_loop
        with only_fallback():
            sites = find_sites(model)
            assert all(isinstance(sites.rule_for(site), FallbackRule) for site in of_loop)
        assert not any(isinstance(sites.rule_for(site), FallbackRule) for site in of_loop)
