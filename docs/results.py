"""Copy the tables of benchmarks/LOG.md that results.md shows, so that no number is typed twice.

    python docs/results.py

In results.md a pair of comments stands around each such table; the first names the entry of the log by its heading,
and the number of the table in it:

    <!-- log: 2026-11-21: memory of generation | 1 -->

    <!-- end -->

The log's older entries say "picture" where the pages say "image"; the copies say "image".
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
COPY = re.compile(r"(<!-- log: (.+) \| (\d+) -->\n\n)(?:\|.*\n)*(\n?<!-- end -->)")


def read_table(log: str, heading: str, number: int) -> str:
    """The `number`-th table, from 1, of the log's entry `heading`.

    Raises:
        ValueError: there is no such entry, or it has fewer tables.
    """
    _, found, rest = log.partition(f"\n## {heading}\n")
    tables = re.findall(r"(?:^\|.*\n)+", rest.partition("\n## ")[0] + "\n", re.MULTILINE)
    if not found or len(tables) < number:
        raise ValueError(f"benchmarks/LOG.md has no table {number} under {heading!r}; results.md asks for it")
    return tables[number - 1].replace("picture", "image")


def fill(page: str, log: str) -> str:
    """The page with each marked table as it stands in the log."""
    return COPY.sub(lambda found: found[1] + read_table(log, found[2], int(found[3])) + found[4], page)


if __name__ == "__main__":
    results = HERE / "results.md"
    results.write_text(fill(results.read_text(), (HERE.parent / "benchmarks" / "LOG.md").read_text()))
