"""``python -m pai_bench``."""

import sys

from pai_bench.cli.entry import main

sys.exit(main())
