# SPDX-License-Identifier: Apache-2.0
"""Faces edited step by step, and how well the steps are named."""
