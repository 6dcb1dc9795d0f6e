# SPDX-License-Identifier: Apache-2.0
"""Reports people read: pictures (`plots`), one self-contained page (`html`), a run's report (`run`)."""
