"""The first run of the README, as it stands: scores, queries and seconds.

python -m studies.quickstart --seeds 0,1,2
"""

from collections.abc import Iterator

from studies.runner import Cell, main

STUDY = "quickstart"


def cells(seeds: tuple[int, ...] = (0, 1, 2)) -> Iterator[Cell]:
    """The runs; that of seed 0 is the README's."""
    for seed in seeds:
        yield Cell(f"quickstart-{seed}", "quickstart", {"seed": seed}, {"seed": seed})


if __name__ == "__main__":
    main(STUDY, (cells,), __doc__ or "")
