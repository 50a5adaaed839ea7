"""`python -m hwgen.cli`."""

import sys

from . import main

sys.exit(main())
