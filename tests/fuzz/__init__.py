"""Random search for cases that no list has."""
