"""The settings: sections, fields, sources, and checks across them."""
