# SPDX-License-Identifier: Apache-2.0
"""Learning from poor labels: wrong ones, mismatched ones, coarse ones."""
