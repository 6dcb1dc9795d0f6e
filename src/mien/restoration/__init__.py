# SPDX-License-Identifier: Apache-2.0
"""Restoration: what a picture was before something happened to it."""
