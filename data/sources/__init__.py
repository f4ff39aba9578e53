"""Where examples come from: one module per source, each with `load(settings) -> Dataset`."""
