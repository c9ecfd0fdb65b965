"""The phases of a time series (a cine of the beating heart, a perfusion series), and how one of them is chosen.

A scan that is one volume has one phase. Phases count from 1, as people and the public sets do.
"""

from __future__ import annotations

from dataclasses import dataclass

from mper.utils.coded import Coded

ED, ES, ALL = "ED", "ES", "all"
_NAMES = {ED: "end diastole", ES: "end systole"}
_SHOWN = 40  # trigger times in one message


@dataclass(frozen=True)
class Phases:
    """What is known of the phases of a scan before any voxel is read.

    Parameters
    ----------
    count : int
        At least 1.
    times_ms : tuple of float
        When each was taken, in ms after the trigger (the R wave); empty where that is not known.
    end_diastole, end_systole : int or None
        Which phase is which, where the header or a file next to the scan says so.
    order : str
        The attribute that distinguishes and sorts phases without times.

    Raises
    ------
    ValueError
        If the count is below 1, there are other than `count` times, or ED or ES is not one of the phases.
    """

    count: int = 1
    times_ms: tuple[float, ...] = ()
    end_diastole: int | None = None
    end_systole: int | None = None
    order: str = ""

    def __post_init__(self) -> None:
        if self.count < 1 or len(self.times_ms) not in (0, self.count):
            raise ValueError(f"{self.count} phases cannot have {len(self.times_ms)} times")
        for name, number in ((ED, self.end_diastole), (ES, self.end_systole)):
            if number is not None and not 1 <= number <= self.count:
                raise ValueError(f"{name} cannot be phase {number} of {self.count}")

    def describe(self) -> str:
        """What there is, for lists and messages: number, trigger times, ED and ES."""
        if self.count == 1:
            return "one volume"
        words = []
        if self.times_ms:
            times = [f"{time:.0f}" for time in self.times_ms]
            shown = ", ".join(times if len(times) <= _SHOWN else [*times[: _SHOWN - 1], "...", times[-1]])
            words.append(f"trigger times {shown} ms")
        elif self.order:
            words.append(f"in the order of {self.order}")
        marked = ((ED, self.end_diastole), (ES, self.end_systole))
        words += [f"{name} is phase {number}" for name, number in marked if number is not None]
        return f"{self.count} phases" + (f" ({'; '.join(words)})" if words else "")

    def marked(self, choice: str) -> int | None:
        """The phase that is marked as ED or ES, None where nothing says which it is."""
        return self.end_diastole if choice == ED else self.end_systole

    def chosen(self, choice: str | None) -> tuple[int, ...]:
        """The phases that a choice stands for; empty for ED or ES where nothing says which phase it is.

        Parameters
        ----------
        choice : str or None
            A number from 1, "ED", "ES" or "all" (see `parse_choice`); None is right for a scan of one volume alone.

        Raises
        ------
        ValueError
            If there is no such phase, or a choice is needed; the message says what there is.
        """
        if choice is None:
            if self.count > 1:
                raise ValueError(
                    Coded(
                        f"the scan is a time series of {self.describe()}; choose with --phase 1 to {self.count}, "
                        "ED, ES or all",
                        "time-series",
                        n=self.count,
                    )
                )
            return (1,)
        if choice == ALL:
            return tuple(range(1, self.count + 1))
        if choice in _NAMES:
            if self.count == 1:
                raise ValueError(f"the scan is one volume, it has no {_NAMES[choice]}; leave --phase {choice} out")
            number = self.marked(choice)
            return () if number is None else (number,)
        if not 1 <= int(choice) <= self.count:
            raise ValueError(f"the scan has no phase {choice}; it is {self.describe()}, counted from 1")
        return (int(choice),)


def parse_choice(text: str) -> str:
    """A number from 1, "ED", "ES" or "all", in any case, as `Phases.chosen` takes it.

    Raises
    ------
    ValueError
        If it is something else.
    """
    for name in (ED, ES, ALL):
        if text.strip().casefold() == name.casefold():
            return name
    if text.strip().isdecimal() and int(text) >= 1:
        return str(int(text))
    raise ValueError(f"{text!r} is no phase; write a number from 1, ED (end diastole), ES (end systole) or all")
