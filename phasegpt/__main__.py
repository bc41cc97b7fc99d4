"""python -m phasegpt."""

from phasegpt.cli import main
from phasegpt.interrupts import run

run(main)
