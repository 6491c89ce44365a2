"""The less loaded of two workers drawn at random.

M. Mitzenmacher, "The power of two choices in randomized load balancing" (2001): nearly as even as
asking everyone, and gateways whose view of the load is old do not all run to the same worker.
"""

from __future__ import annotations

from baton.router.policy.least_loaded import LeastLoaded


class PowerOfTwo(LeastLoaded):
    """For a pair, two are drawn of each role."""

    name = "power_of_two"
    num_sampled = 2
