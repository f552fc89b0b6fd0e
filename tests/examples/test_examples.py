"""Every example runs as it stands; the long ones to the end behind the marker."""

import pytest

from examples import analog_layers


def test_analog_layers_train_through_the_device():
    found = analog_layers.main(num_steps=3)
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.slow
def test_analog_layers_reach_floating_point():
    found = analog_layers.main()
    exact, moved, trained = found.values()
    assert trained > exact - 0.01
    assert trained > moved + 0.03
