"""Training: the LightningModule, its average weights, checkpoints, callbacks and loggers."""
