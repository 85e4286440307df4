"""Sparsity training in a Lightning module: a method is attached in it, a callback tells it of epochs and steps.

    pip install lightning
    python examples/attach_lightning.py

`Sparsity` is all that Lightning needs to know; the network, the data and the targets are those of attach_pytorch.py.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from attach_pytorch import METHODS, loaders, net, top1
from torch import Tensor, nn

from prunus.methods import Attached


class Sparsity(L.Callback):
    """Tells an attached method of each epoch, and of each step of the optimizer, however many batches make one."""

    def __init__(self, h: Attached) -> None:
        self.h, self.steps = h, 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.h.epoch_start(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.h.after_step()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["sparsity"] = self.h.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.h.load_state_dict(checkpoint["sparsity"])


class Classifier(L.LightningModule):
    """A network in training. Lightning divides the loss by the batches of a step, so the penalty counts once a step."""

    def __init__(self, model: nn.Module, h: Attached) -> None:
        super().__init__()
        self.model, self.h = model, h

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y) + self.h.penalty()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": self.model.parameters()}, *self.h.param_groups(lr=0.1)]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)


def main(method: str = "gates", target: str = "macs=40%", epochs: int = 12) -> dict[str, float]:
    """Train and cut; returns accuracies in percent and the share of the MACs that is left."""
    L.seed_everything(0, verbose=False)
    model, (train, test) = net(), loaders()
    h = METHODS[method].attach(model, torch.zeros(1, 1, 8, 8), target, epochs)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[Sparsity(h)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(model, h), train)
    found = {"sparse": top1(model, test)}
    small = h.finish()
    found |= {"cut": top1(small.model, test), "macs": 100 * small.after.macs / small.before.macs}
    print(small)
    print(", ".join(f"{name} {value:.2f} %" for name, value in found.items()))
    return found


if __name__ == "__main__":
    main()
