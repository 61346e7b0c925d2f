"""Measurements; docs/performance.md is made from them."""

import visplay  # noqa: F401 (before torch: threads wait as they do in the command)
