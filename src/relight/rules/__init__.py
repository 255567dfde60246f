"""One file per rule. Found by walking this package; nothing registers anywhere.

Families: RL1 file and container, RL2 pickle contents and names, RL3 keys, RL4 tensors, RL5 Lightning structure,
versions and hyper_parameters, RL6 optimizers, schedulers, loops and callbacks, RL7 environment, device and target,
RL8 safety, RL9 distributed and sharded. Codes that end in 90 to 99 take what the family's other rules left over.
"""
