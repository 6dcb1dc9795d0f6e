# SPDX-License-Identifier: Apache-2.0
"""Blocks that two families or more share."""
