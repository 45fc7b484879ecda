"""Any network: its wrappers, prunable layers, private copies, and forward pass."""
