# SPDX-License-Identifier: Apache-2.0
"""Images that belong to one of several classes: what every family of classifiers shares."""
