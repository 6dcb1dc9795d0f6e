# SPDX-License-Identifier: Apache-2.0
"""Is this image real? Data, readers, answers and figures of the room."""
