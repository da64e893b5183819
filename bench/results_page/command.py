"""`python -m bench results`: write the page and README's table, or say that they lag behind."""

import argparse
from pathlib import Path

from bench.results_page.headline import headline, replaced
from bench.results_page.page import GENERATED, page
from bench.results_page.sources import RESULTS, sources
from qlora_kernels.files import write_text

HELP = """\
Makes bench/results/README.md and README's table of figures from the committed records. Needs
nothing but the records. --check writes nothing and is red where a page is not what they say.
"""
README = Path(__file__).parents[2] / "README.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="the pages, from the records")
    what.add_argument("--check", action="store_true", help="that the pages are in step with them")


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 if `--check` found a page that lags behind."""
    lagging = [path for path, text in pages(RESULTS, README).items() if _differs(path, text)]
    if arguments.check:
        for path in lagging:
            print(f"{path.name} in {path.parent.name}: not what the records say; run {GENERATED}")
        return int(bool(lagging))
    for path, text in pages(RESULTS, README).items():
        write_text(path, text)
    print(f"{len(lagging)} pages changed")
    return 0


def pages(results: Path, readme: Path) -> dict[Path, str]:
    """What each page should be."""
    found = sources(results)
    return {
        results / "README.md": page(found, results),
        readme: replaced(readme.read_text(encoding="utf-8"), headline(found)),
    }


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text
