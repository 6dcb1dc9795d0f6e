# SPDX-License-Identifier: Apache-2.0
"""Every detector of the room under one protocol."""
