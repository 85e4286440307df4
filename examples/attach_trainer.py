"""Sparsity training with the Trainer of Hugging Face transformers: one subclass and one callback.

    pip install "transformers[torch]"
    python examples/attach_trainer.py

The network, the data and the targets are those of attach_pytorch.py; any model of transformers goes the same way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from attach_pytorch import METHODS, loaders, net, top1
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunus.methods import Attached


class Sparsity(TrainerCallback):
    """Tells an attached method of epochs and steps. A step is one of the optimizer, not one of its parts."""

    def __init__(self, h: Attached) -> None:
        self.h = h

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.h.epoch_start(int(state.epoch or 0))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.h.after_step()


class Sparse(Trainer):
    """Adds the penalty to the loss and the method's own parameters to the optimizer."""

    def __init__(self, h: Attached, **kwargs: Any) -> None:
        super().__init__(callbacks=[Sparsity(h)], **kwargs)
        self.h = h

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        logits = model(inputs["x"])
        loss = F.cross_entropy(logits, inputs["labels"]) + self.h.penalty()
        return (loss, logits) if return_outputs else loss

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        groups = [{"params": list(self.h.model.parameters())}, *self.h.param_groups(self.args.learning_rate)]
        self.optimizer = torch.optim.SGD(groups, lr=self.args.learning_rate, momentum=0.9, nesterov=True)
        return self.optimizer


def main(method: str = "gates", target: str = "macs=40%", epochs: int = 12) -> dict[str, float]:
    """Train and cut; returns accuracies in percent and the share of the MACs that is left."""
    torch.manual_seed(0)
    model, (train, test) = net(), loaders()
    h = METHODS[method].attach(model, torch.zeros(1, 1, 8, 8), target, epochs)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=0,
        )
        rows = [{"x": x, "labels": y} for x, y in train.dataset]  # type: ignore[attr-defined]
        Sparse(h, model=model, args=settings, train_dataset=rows).train()  # type: ignore[arg-type]
    found = {"sparse": top1(model, test)}
    small = h.finish()
    found |= {"cut": top1(small.model, test), "macs": 100 * small.after.macs / small.before.macs}
    print(small)
    print(", ".join(f"{name} {value:.2f} %" for name, value in found.items()))
    return found


if __name__ == "__main__":
    main()
