"""How much a KL divergence should weigh for it to stay near a target."""

from __future__ import annotations

from math import exp, log

_LEAST, _MOST = log(1e-8), log(1e2)


def adapt_kl_weight(weight: float, kl: float, target: float, rate: float) -> float:
    """Raise the weight of a KL divergence above its target, lower it below: w exp(rate (kl - target) / target).

    A proportional controller after Ziegler et al. (arXiv 1909.08593), in the form of EvoLMM (arXiv 2511.16672).

    Args:
        weight: The weight w that the KL divergence was reached with, positive.
        kl: The KL divergence, in nats per token.
        target: What it is to be held at, positive.
        rate: How fast.

    Returns:
        The next weight, in [1e-8, 100].

    Example:
        >>> round(adapt_kl_weight(0.01, kl=0.04, target=0.02, rate=0.1), 6)  # 0.01 e^0.1
        0.011052
    """
    return exp(min(max(log(weight) + rate * (kl - target) / target, _LEAST), _MOST))
