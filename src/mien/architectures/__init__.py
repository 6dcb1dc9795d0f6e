# SPDX-License-Identifier: Apache-2.0
"""What will this network cost? Accuracy and latency of neural architectures, predicted from their graphs."""
