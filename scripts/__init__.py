"""Thin commands; nothing imports them."""
