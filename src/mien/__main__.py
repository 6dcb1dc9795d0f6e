# SPDX-License-Identifier: Apache-2.0
"""`python -m mien` is the command `mien`."""

import sys

from mien.cli import main

sys.exit(main())
