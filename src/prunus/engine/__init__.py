"""Training and measuring: tensors, optimizers, devices. Knows no graph and no method.

`data` names and batches, `loop` trains and evaluates, `runtime` holds device and precision, `task` says what a batch
means, `schedule` gives the learning rate. Methods reach training only through the hooks described in `loop`.
"""
