"""Recipes (`*.yaml`, each runs as it stands) and, in `schema/`, the vocabulary of recipes."""
