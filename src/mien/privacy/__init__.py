# SPDX-License-Identifier: Apache-2.0
"""Hide who it is, and give it back to the holder of the key. Obfuscation, keys, protected files, and the room."""
