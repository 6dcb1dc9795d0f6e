# SPDX-License-Identifier: Apache-2.0
"""Is it the same person? Embeddings of person (and vehicle) crops for retrieval across cameras."""
