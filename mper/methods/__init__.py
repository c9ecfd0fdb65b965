"""Training methods, one file each, all subclasses of `mper.methods.base.Method`.

`registry` lists them with what the rest of the program needs to know, without importing torch.
Imports: the root, `utils`, `dataloading`, `nets`, the voxel references of `models`, torch.
"""
