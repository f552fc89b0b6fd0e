"""Black-box defense on scikit-learn's digits: five methods, then their certificates.

  python train.py --config configs/defense_digits.py

An ONNX classifier that the run trains itself stands for the box.
"""

from configs.schema import DefenseConfig


def get_config() -> DefenseConfig:
    """DnCNN of 7,264 parameters, auto-encoder of 4 numbers (a sixteenth of the pixels)."""
    return DefenseConfig()
