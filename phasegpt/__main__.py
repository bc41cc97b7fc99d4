"""python -m phasegpt."""

import sys

from phasegpt.cli import main

sys.exit(main())
