"""A small net, a batch for it, and what one plain step must do to its weights."""

import copy

import torch
from torch import nn

from prunus.engine.config import Fit

PLAIN = Fit(epochs=1, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="steps")
"""One constant rate, so that a step is w - 0.1 · gradient."""


def small(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def one_batch(n: int = 16, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 1, 8, 8, generator=g), torch.randint(0, 10, (n,), generator=g))]


def gradients(model: nn.Module, loss) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(model).train()
    loss(model).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_stepped(before: nn.Module, after: nn.Module, grads: dict[str, torch.Tensor], lr: float = 0.1) -> None:
    old = dict(before.named_parameters())
    for name, p in after.named_parameters():
        torch.testing.assert_close(p, old[name] - lr * grads[name], rtol=1e-5, atol=1e-7, msg=name)


def images(n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=g), torch.randint(0, 10, (n,), generator=g)
