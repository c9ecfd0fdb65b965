"""The choice of how the wall of a left atrium is shown in 3-D, and its surface from the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from MPERLib import mrml
from MPERLib.callbacks import slot
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.rendering import rendered_once
from MPERLib.widgets import chosen, fill_box
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, wall_model


class WallPanel:
    """Shows the surface of the figures that the engine gave last.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    failed : callable
        Takes one line for the user.
    """

    def __init__(self, context: PanelContext, session: EngineSession, failed: Callable[[str], None]):
        self._context, self._session, self._failed = context, session, failed
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._surface: str | None = None  # the engine's id; None where the figures are stale, or have no surface
        self._call: Any = None
        context.ui.surfaceBox.connect("currentIndexChanged(int)", slot(self._onChosen))

    @property
    def busy(self) -> bool:
        """Whether a surface is on its way."""
        return self._call is not None

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the surface of another segmentation, if it has one; that of the one before is hidden."""
        self.stop()
        if mrml.alive(self._node):
            wall_model.set_visible(self._node, False)
        self._node = node
        wall_model.set_visible(node, True)
        scalars = [(scalar, wall_model.title_of(scalar)) for scalar in wall_model.SCALARS]
        fill_box(
            self._context.ui.surfaceBox,
            [("", _("Not shown")), *scalars],
            wall_model.scalar_of(wall_model.node_of(node)),
        )

    def update(self, surface: str | None) -> None:
        """There are new figures, with or without a surface."""
        self.stop()
        self._surface = surface
        if surface is None:
            wall_model.remove(self._node)
        else:
            self._fetch()

    def stop(self) -> None:
        """The figures are out of date: nothing more is fetched; what is shown stays."""
        if self._call is not None:
            self._call.abort()
            self._call = None
        self._surface = None

    def removeOld(self) -> None:
        """The mask was edited, and nothing is measured now: show its own surface, and not that of the mask before."""
        self.stop()
        wall_model.remove(self._node)

    def close(self) -> None:
        """The scene is being closed."""
        self.stop()
        self._node = None

    def nodes(self) -> list[Any]:
        """The surface of the segmentation that is shown."""
        return [node for node in (wall_model.node_of(self._node),) if node is not None]

    def _onChosen(self) -> None:
        scalar, shown = chosen(self._context.ui.surfaceBox), wall_model.node_of(self._node)
        if not scalar:
            wall_model.remove(self._node)
        elif shown is not None:
            wall_model.colour(shown, scalar)
        else:
            self._fetch()

    def _fetch(self) -> None:
        surface = self._surface
        if not chosen(self._context.ui.surfaceBox) or surface is None:
            return

        def take(file: bytes) -> None:
            mesh = wall_model.read(file)
            self._session.later(lambda: self._take(surface, mesh), "surface is shown")  # as much work again

        if self._call is not None:
            self._call.abort()
        self._call = self._session.getBytes(route("surfaces", surface), take, self._fail)

    def _take(self, surface: str, mesh: Any) -> None:
        scalar = chosen(self._context.ui.surfaceBox)
        if surface != self._surface:
            return
        self._call = None
        if scalar and mrml.alive(self._node):
            with rendered_once():
                wall_model.show(self._node, result_node.scan_of(self._node), mesh, scalar)

    def _fail(self, message: str) -> None:
        self._call = None
        self._failed(message)
