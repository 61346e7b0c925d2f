import math

import pytest

from visplay.functional import adapt_kl_weight


def test_weights_by_hand():
    assert adapt_kl_weight(1e-3, kl=0.02, target=0.02, rate=0.1) == pytest.approx(1e-3)
    assert adapt_kl_weight(1e-3, kl=0.06, target=0.02, rate=0.1) == pytest.approx(1e-3 * math.exp(0.2))
    assert adapt_kl_weight(1e-3, kl=0.0, target=0.02, rate=0.1) == pytest.approx(1e-3 * math.exp(-0.1))


def test_weights_stay_within_their_limits():
    assert adapt_kl_weight(1.0, kl=1e6, target=0.02, rate=0.1) == pytest.approx(100)
    assert adapt_kl_weight(1.1e-8, kl=0.0, target=0.02, rate=5.0) == pytest.approx(1e-8)
