"""Where a gradient may be asked, and what a step asks there: a table for the plan."""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple


class Place(NamedTuple):
    """A place where the derivative of a black box can be asked.

    Attributes:
      name: for the table.
      size: numbers that could be moved there.
      num_moved: coordinates or directions of a step; None for all numbers.
      kind: whether they are coordinates or random directions.
      method: that asks there; "" where none does.
    """

    name: str
    size: int
    num_moved: int | None = None
    kind: Literal["coordinates", "directions"] = "coordinates"
    method: str = ""

    @property
    def num_calls(self) -> int:
        """Evaluations of a step, the base included."""
        return 1 + (self.size if self.num_moved is None else self.num_moved)

    @property
    def cosine(self) -> float:
        r"""Expected between estimate and derivative at this place, where all numbers weigh alike.

        $\sqrt{q / (q + m + 1)}$ for q normal directions of m numbers, $\sqrt{q / m}$ for q drawn
        coordinates.
        """
        if self.num_moved is None or self.size == 0:
            return 1.0
        if self.kind == "directions":
            return (self.num_moved / (self.num_moved + self.size + 1)) ** 0.5
        return min(self.num_moved / self.size, 1.0) ** 0.5


def where_to_ask(places: Sequence[Place], samples: int, methods: Collection[str]) -> str:
    """The table of places: numbers, samples of a step at most, expected cosine, who asks there.

    Args:
      places: to be compared.
      samples: that one evaluation sends to the box.
      methods: of this run; others are not named.

    Example:
      >>> places = [Place("parameters", 417, method="other"), Place("boundary", 24, method="mine")]
      >>> print(where_to_ask(places, 128, ["mine"]))
      where to ask    numbers   moved   samples a step   expected cosine
      parameters          417     417           53,504              1.00
      boundary             24      24            3,200              1.00  mine
    """
    width = max(14, *(len(place.name) for place in places)) + 1
    header = f"{'where to ask':<{width}}{'numbers':>9}{'moved':>8}{'samples a step':>17}"
    lines = [header + f"{'expected cosine':>18}"]
    for place in places:
        moved = place.size if place.num_moved is None else place.num_moved
        line = f"{place.name:<{width}}{place.size:>9,}{moved:>8,}"
        line += f"{place.num_calls * samples:>17,}{place.cosine:>18.2f}"
        lines.append(f"{line}  {place.method}" if place.method in methods else line)
    return "\n".join(lines)
