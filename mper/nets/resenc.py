"""A U-Net with a residual encoder and deep supervision, for slices and for volumes, from MONAI.

Source: the SegResNetDS of MONAI (Apache-2.0; Myronenko, BrainLes 2018, as it grew into Auto3DSeg): five
resolutions with 1, 2, 2, 4 and 4 residual blocks on the way down and one each on the way up, skips by
addition, and a classifier at each of the four finest resolutions. MONAI needs nothing but torch and numpy;
`dynamic-network-architectures` has a relative of it and brings timm, torchvision and a model hub along.

Batch norm rather than the instance norm that is usual in such networks: our predictions see a whole
scan at once, whose statistics are not those of a training patch.
"""

from __future__ import annotations

import torch
from torch import nn

from mper.nets.vnet import Convolution

_BLOCKS = (1, 2, 2, 4, 4)  # residual ones per resolution on the way down
_CLASSIFIED = 3  # resolutions below the full one that have a classifier


class ResEnc(nn.Module):
    """21,795,480 parameters in 3-D with one input channel, two classes and 16 filters.

    Parameters
    ----------
    inputs, classes : int
        Channels in and out.
    filters : int
        Channels at full resolution; doubled at each of the four halvings.
    dropout : (float, float)
        Rates of the channel dropout at the lowest resolution and before the classifier.
    dimensions : int
        2 or 3.

    Raises
    ------
    ValueError
        If MONAI is not installed.
    """

    def __init__(self, inputs: int, classes: int, filters: int, dropout: tuple[float, float], dimensions: int):
        super().__init__()
        try:
            from monai.networks.nets.segresnet_ds import SegResNetDS
        except ImportError as error:
            raise ValueError(
                "a residual-encoder U-Net comes from MONAI, which is not installed; pip install monai "
                '(or "mper[backbones]"), or choose another backbone'
            ) from error
        parts = SegResNetDS(dimensions, filters, inputs, classes, blocks_down=_BLOCKS)
        if dimensions == 3:
            _trainable_in_half_precision(parts)
        self.encoder = parts.encoder
        self.up = nn.ModuleList(level["upsample"] for level in parts.up_layers)
        self.decoder = nn.ModuleList(level["blocks"] for level in parts.up_layers)
        drop, head = (nn.Dropout3d, nn.Conv3d) if dimensions == 3 else (nn.Dropout2d, nn.Conv2d)
        self.bottom_dropout, self.top_dropout = drop(dropout[0]), drop(dropout[1])
        self.classifier = head(filters, classes, 1)
        self.deep_classifiers = nn.ModuleList(head(filters * 2**n, classes, 1) for n in range(1, _CLASSIFIED + 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, embedding before and after the last dropout, all at full size; in training then logits of 1/2, ..."""
        return self.after_dropout(self.before_dropout(image))

    def before_dropout(self, image: torch.Tensor) -> list[torch.Tensor]:
        """All that does not change from one draw of dropout to the next: the encoder, finest resolution first."""
        return list(self.encoder(image))

    def after_dropout(self, stages: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What `forward` gives, from the list that `before_dropout` gave; takes it apart, so that memory is freed."""
        x = self.bottom_dropout(stages.pop())
        maps = []
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(up(x) + stages.pop())
            maps.append(x)
        dropped = self.top_dropout(x)
        deep = []
        if self.training:
            deep = [classify(x) for classify, x in zip(self.deep_classifiers, maps[-2::-1], strict=False)]
        return (self.classifier(dropped), x, dropped, *deep)


def _trainable_in_half_precision(module: nn.Module) -> None:
    """Put our convolution in the place of each one of MONAI's that keeps the size, with its weights."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv3d) and child.kernel_size == (3, 3, 3) and child.stride == (1, 1, 1):
                ours = Convolution(child.in_channels, child.out_channels, bias=child.bias is not None)
                ours.load_state_dict(child.state_dict())
                setattr(parent, name, ours)
