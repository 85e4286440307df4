"""Sparsity training in a plain PyTorch loop: attach a method, add its penalty, cut with proof, train back.

    python examples/attach_pytorch.py                    gates under a budget, half a minute on one core
    python examples/attach_pytorch.py --method slimming

Everything between `attach` and `finish` is your own loop. Only four lines of it know of Prunus.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prunus.methods import SSL, Gates, Slimming

METHODS = {
    "gates": Gates(alpha_mac=5.0, lr_scale=1.0),
    "slimming": Slimming(lam=1e-3),
    "ssl": SSL(lam=3e-3, affine=True),
}


def net() -> nn.Sequential:
    """A small convolutional network for the 8 x 8 digits."""
    layers: list[nn.Module] = []
    for wide, narrow in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(wide, narrow, 3, padding=1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def loaders() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """The digits that come with Prunus: 1,438 to train on, 359 to test."""
    from prunus.engine.data import Split, load

    data = load("digits")
    made: list[DataLoader[tuple[Tensor, ...]]] = []
    for part in (data.train, data.test):
        assert isinstance(part, Split)
        images = part.images.float() / 255
        made.append(DataLoader(TensorDataset(images - images.mean(), part.labels), 64, shuffle=part is data.train))
    return made[0], made[1]


def top1(model: nn.Module, loader: DataLoader[tuple[Tensor, ...]]) -> float:
    """Accuracy in percent."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    return 100 * right / len(loader.dataset)  # type: ignore[arg-type]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, cut, train back; returns the accuracies in percent and the share of the MACs that is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="gates")
    parser.add_argument("--target", default="macs=40%")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    model, (train, test) = net(), loaders()

    h = METHODS[options.method].attach(model, torch.zeros(1, 1, 8, 8), options.target, options.epochs)
    groups = [{"params": model.parameters()}, *h.param_groups(lr=0.1)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for epoch in range(options.epochs):
        h.epoch_start(epoch)
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) + h.penalty()
            loss.backward()
            optimizer.step()
            h.after_step()
    found = {"sparse": top1(model, test)}
    small = h.finish()
    found["cut"] = top1(small.model, test)

    optimizer = torch.optim.SGD(small.model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(max(1, options.epochs // 3)):
        small.model.train()
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(small.model(x), y).backward()
            optimizer.step()
    found["finetuned"] = top1(small.model, test)
    found["macs"] = 100 * small.after.macs / small.before.macs
    print(small)
    print(", ".join(f"{name} {value:.2f} %" for name, value in found.items()))
    return found


if __name__ == "__main__":
    main()
