# SPDX-License-Identifier: Apache-2.0
"""Public data sets, in the layouts in which their owners publish them."""
