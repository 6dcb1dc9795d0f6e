# SPDX-License-Identifier: Apache-2.0
"""Per method, the small experiment that shows its claim: `base` says what a proof is, `runner` runs it."""
