"""What can be said of, and done with, any network: its wrappers, its prunable layers, copies, a forward pass."""
