# SPDX-License-Identifier: Apache-2.0
"""Parts of single methods that are worth a file of their own."""
