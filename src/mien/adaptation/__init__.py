# SPDX-License-Identifier: Apache-2.0
"""Learning more without forgetting: classes that arrive task by task, adapters and prompts on frozen networks."""
