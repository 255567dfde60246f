"""The key mapper: which tensor of a checkpoint belongs where in a model, and by which few rules."""
