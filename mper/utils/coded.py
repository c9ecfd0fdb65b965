"""Lines for people that a program can also say in the words of its own users: with a code and values."""

from __future__ import annotations


class Coded(str):
    """A line with what it says as a code, and the values that words for it need.

    Parameters
    ----------
    line : str
    code : str
    **values : str, int or float
    """

    code: str
    values: dict[str, str | int | float]

    def __new__(cls, line: str, code: str, **values: str | int | float) -> Coded:
        made = super().__new__(cls, line)
        made.code, made.values = code, values
        return made


def codes_of(lines: tuple[str, ...]) -> list[dict[str, object]]:
    """The code and the values of each line; an empty code where it has none."""
    return [
        {"code": line.code, "values": line.values} if isinstance(line, Coded) else {"code": "", "values": {}}
        for line in lines
    ]
