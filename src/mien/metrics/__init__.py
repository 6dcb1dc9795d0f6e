# SPDX-License-Identifier: Apache-2.0
"""Numbers and how sure they are: metrics of a score, intervals over groups and seeds, verdicts."""
