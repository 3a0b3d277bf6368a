"""`python -m cdc_assets.cli`."""

import sys

from cdc_assets.cli import main

sys.exit(main())
