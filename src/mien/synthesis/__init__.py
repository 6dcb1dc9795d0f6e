# SPDX-License-Identifier: Apache-2.0
"""Make a picture from pictures."""
