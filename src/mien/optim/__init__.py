# SPDX-License-Identifier: Apache-2.0
"""Optimisers: recipes by name, and those that ask for the gradient more than once per update."""
