# SPDX-License-Identifier: Apache-2.0
"""What does the face show? Expressions, attributes."""
