"""What a checkpoint can say of the model and the run that made it, beyond its keys: written while training.

`relight.CheckpointManifest` is the Lightning callback, `relight.with_manifest` the one call for plain ``torch.save``.
`relight.manifest.structure` and `relight.manifest.behaviour` also describe the model of today, in the process that
builds it: both sides of a comparison come from the same code. Nothing in here imports torch; it uses the one that the
program has imported.
"""
