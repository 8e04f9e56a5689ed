"""``python -m app``: the command ``torii``."""

from .cli.main import main

main(prog_name="torii")
