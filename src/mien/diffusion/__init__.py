# SPDX-License-Identifier: Apache-2.0
"""Diffusion processes as plain formulas, and the networks that run them; what is restored or made is the rooms'."""
