# SPDX-License-Identifier: Apache-2.0
"""Classifiers that stand up to attack and surprise. The command line meets this room in `mien.robustness.room`."""
