"""``python -m balsam_jupyter.cli``."""

from . import main

main(prog_name="balsam-jupyter")
