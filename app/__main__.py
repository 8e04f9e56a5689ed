"""``python -m app``: the command ``torii``."""

from .cli import main

main(prog_name="torii")
