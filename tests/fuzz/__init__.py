"""Searched by chance: what no list of cases has."""
