"""Makes docs/results.md and its figures: ``python -m studies.report``."""

from studies.report import report
from studies.report.committed import results
from studies.report.figures import FIGURES
from studies.runner import ROOT


def main() -> None:
    """Writes text and figures."""
    docs = ROOT / "docs"
    (docs / "results.md").write_text(report())
    for study, plot in FIGURES.items():
        found = results(study)
        if found:
            plot(found, docs / f"{study}.png")
    print(f"wrote {docs.name}/results.md")


if __name__ == "__main__":
    main()
