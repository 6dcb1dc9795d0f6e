# SPDX-License-Identifier: Apache-2.0
"""The verbs of the command line, one small file each. `mien.catalog.VERBS` names them; `mien.cli` imports none."""
