# SPDX-License-Identifier: Apache-2.0
"""Clips of videos and of stills: where they come from, which frames, and one score for many."""
