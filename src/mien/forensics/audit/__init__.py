# SPDX-License-Identifier: Apache-2.0
"""Does a detector treat groups of people alike?"""
