# SPDX-License-Identifier: Apache-2.0
"""Training without pooling data: who holds what, how rounds are made, and clients on real machines."""
