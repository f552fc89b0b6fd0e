"""The yardstick: an eager PyTorch CPU forward pass of the same networks."""

import time
from collections.abc import Callable


def forward_pass(name: str, batch: int) -> Callable[[], float]:
    """A function that runs one training-mode pass with its loss, on two threads: its seconds."""
    # Of the bench extra, which a type checker need not have.
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = _resnet(nn, int(name[6:])) if name.startswith("resnet") else _cnn(nn, int(name[3:]))
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))

    def run() -> float:
        with torch.no_grad():
            start = time.perf_counter()
            nn.functional.cross_entropy(model(images), labels).item()
            return time.perf_counter() - start

    run()
    return run


def _cnn(nn, depth):
    layers, channels = [], 3
    for _ in range(depth):
        layers += [nn.Conv2d(channels, 18, 3, 1, 1), nn.BatchNorm2d(18), nn.ReLU(), nn.MaxPool2d(2)]
        channels = 18
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 10))


def _resnet(nn, depth):
    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.narrow = stride != 1
            self.added = (outputs - inputs) // 2

        def forward(self, x):
            hidden = nn.functional.relu(self.norm1(self.conv1(x)))
            hidden = self.norm2(self.conv2(hidden))
            if self.narrow:
                x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
            return nn.functional.relu(x + hidden)

    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for stage in range(3):
        for block in range((depth - 2) // 6):
            outputs = 16 * 2**stage
            layers.append(Block(channels, outputs, 2 if stage > 0 and block == 0 else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
