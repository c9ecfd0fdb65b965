"""Networks: backbones that give logits and a voxel embedding, with the prototypes of each class.

`network` builds any of them from a `NetConfig`; the others are one architecture or part each.
Imports: `utils.devices`, torch; nothing here knows images, files or training.
"""
