"""A small line chart that grows while a training runs.

Lines of a QGraphicsScene: sharp at every size, no painting in Python, and the same under Qt 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import qt

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17a2b8")
_LEFT, _TOP, _RIGHT, _BOTTOM = 42, 36, 10, 20
_MAX_POINTS = 400  # a line: more than the chart has pixels is only slow

Line = Sequence[tuple[float, float]]


class Chart:
    """Lines over training steps, in `widget`.

    Parameters
    ----------
    title : str
    height : int
        In pixels.
    top : float or None
        Largest value of the axis where it is known (1 for Dice).
    """

    def __init__(self, title: str, height: int = 150, top: float | None = None):
        self._title, self._top = title, top
        self._lines: dict[str, Line] = {}
        self._drawn: tuple | None = None
        self.scene = qt.QGraphicsScene()
        self.widget = qt.QGraphicsView(self.scene)
        self.widget.setRenderHint(qt.QPainter.Antialiasing, True)
        self.widget.setFixedHeight(height)
        self.widget.horizontalScrollBarPolicy = qt.Qt.ScrollBarAlwaysOff
        self.widget.verticalScrollBarPolicy = qt.Qt.ScrollBarAlwaysOff
        self.widget.frameShape = qt.QFrame.NoFrame
        self.widget.toolTip = title

    def show(self, lines: Mapping[str, Line]) -> None:
        """Draw `lines`: points (step, value) by name. Does nothing where nothing has changed."""
        size = (self.widget.viewport().width, self.widget.viewport().height)
        key = (size, tuple((name, len(line), line[-1] if line else None) for name, line in lines.items()))
        if key == self._drawn:
            return
        self._drawn = key
        self._lines = {name: _thin(line) for name, line in lines.items() if line}
        self._draw(*size)

    def values(self) -> dict[str, Line]:
        """What is drawn."""
        return dict(self._lines)

    def _draw(self, width: float, height: float) -> None:
        scene = self.scene
        scene.clear()
        scene.setSceneRect(0, 0, width, height)
        ink = self.widget.palette.color(qt.QPalette.Text)
        faint = qt.QColor(ink)
        faint.setAlpha(60)
        self._text(self._title, 4, 0, ink)
        points = [point for line in self._lines.values() for point in line]
        if not points:
            return
        last = max(x for x, _y in points) or 1
        low = min(0.0, *(y for _x, y in points))
        high = self._top if self._top is not None else max(y for _x, y in points)
        high = high if high > low else low + 1
        right, bottom = width - _RIGHT, height - _BOTTOM

        def place(x: float, y: float) -> tuple[float, float]:
            return _LEFT + x / last * (right - _LEFT), bottom - (y - low) / (high - low) * (bottom - _TOP)

        for share in (0.0, 0.5, 1.0):
            y = bottom - share * (bottom - _TOP)
            scene.addLine(_LEFT, y, right, y, qt.QPen(faint))
            self._text(f"{low + share * (high - low):.3g}", 2, y - 9, ink)
        self._text("0", _LEFT, bottom, ink)
        end = self._text(f"{last:.0f}", 0, bottom, ink)
        end.setPos(right - end.boundingRect().width(), bottom)
        at = _LEFT
        for number, (name, line) in enumerate(self._lines.items()):
            colour = qt.QColor(_COLOURS[number % len(_COLOURS)])
            path = qt.QPainterPath()
            path.moveTo(*place(*line[0]))
            for point in line[1:]:
                path.lineTo(*place(*point))
            pen = qt.QPen(colour)
            pen.setWidthF(1.6)
            scene.addPath(path, pen)
            if len(line) < 30:  # the hold-out is measured a few times only: show each
                for point in line:
                    x, y = place(*point)
                    scene.addEllipse(x - 2, y - 2, 4, 4, qt.QPen(colour), qt.QBrush(colour))
            text = self._text(name, at, 15, colour)
            at += text.boundingRect().width() + 4

    def _text(self, text: str, x: float, y: float, colour):
        item = self.scene.addSimpleText(text)
        font = item.font()
        font.setPointSizeF(8)
        item.setFont(font)
        item.setBrush(qt.QBrush(colour))
        item.setPos(x, y)
        return item


def _thin(line: Line) -> Line:
    """At most so many points, the last among them."""
    stride = -(-len(line) // _MAX_POINTS)
    return line if stride < 2 else [*line[:-1:stride], line[-1]]
