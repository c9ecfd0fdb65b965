"""The build of PyTorch that fits this computer: where pip finds it, and how much it downloads.

On Linux, pip's own index has only the build for NVIDIA cards, which brings gigabytes of their libraries; PyTorch's
index has each build apart. On Windows and macOS, pip's own index has the build without them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

_INDEX = "https://download.pytorch.org/whl/"  # documented at https://pytorch.org/get-started/locally
# For each CUDA version that PyTorch is built for: the oldest driver, and the oldest generation of cards
# (compute capability) that it runs on.
_CUDA_BUILDS = (("cu128", 570.0, 7.5), ("cu126", 525.0, 5.0))


@dataclass(frozen=True)
class GraphicsCard:
    """An NVIDIA card, as its driver describes it.

    Parameters
    ----------
    name : str
    driver : float
        The driver's version, without its last part.
    capability : float
        The generation of the card, NVIDIA's compute capability.
    """

    name: str
    driver: float
    capability: float

    @classmethod
    def from_line(cls, line: str) -> GraphicsCard | None:
        """From ``name, driver version, compute capability``, a line of nvidia-smi; None if it is not of this form."""
        words = [word.strip() for word in line.split(",")]
        try:
            name, driver, capability = words
            return cls(name, float(".".join(driver.split(".")[:2])), float(capability))
        except ValueError:
            return None


@dataclass(frozen=True)
class TorchBuild:
    """A build of PyTorch.

    Parameters
    ----------
    index : str
        The address at which pip finds it; "" for pip's own index.
    card : str
        The graphics card that it uses; "" for none.
    download_mb, disk_mb : int
        How much is downloaded, and how much it then takes, with what it needs; rounded up.
    """

    index: str
    card: str
    download_mb: int
    disk_mb: int

    @classmethod
    def for_computer(cls, card: GraphicsCard | None, system: str = sys.platform) -> TorchBuild:
        """The build for this computer: with CUDA if its card and driver are new enough, else for the processor."""
        if system == "darwin":
            return cls("", "", 120, 500)
        if card is not None:
            for name, driver, capability in _CUDA_BUILDS:
                if card.driver >= driver and card.capability >= capability:
                    return cls(_INDEX + name, card.name, 3000, 6000)
        return cls(_INDEX + "cpu" if system.startswith("linux") else "", "", 250, 900)
