"""`python -m plainconv.exporter` is the command `exporter`."""

import sys

from .cli.main import main

sys.exit(main())
