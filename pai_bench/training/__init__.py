"""Training: the protocol (hyper-parameters) and the trainer."""
