"""The last node of a study: ``python -m pig_monai.study --study study.yaml``."""

from __future__ import annotations

import sys

from pig_monai.cli import run_command
from pig_monai.evaluation.results import as_csv, markdown
from pig_monai.files import write_text
from pig_monai.study.report import report_page
from pig_monai.study.results import Results
from pig_monai.study.settings import Study
from pig_monai.study.tables import table1_parts, table1_rows, table2_parts, table2_rows


def report(*, study: str) -> None:
    """Write tables and report of a study whose nodes are done: table1 and table2 as .csv and .md, report.html.

    Args:
        study: the study file.
    """
    results = Results.read(Study.load(study))
    output = results.study.output
    table1, table2 = table1_rows(results), table2_rows(results)
    tables = {
        "table1": (table1, table1_parts(table1)),
        "table2": (table2, table2_parts(table2)),
    }
    for name, (rows, parts) in tables.items():
        write_text(output / f"{name}.csv", as_csv(rows, list(rows[0])))
        text = "\n".join(markdown(*part) for part in parts)
        write_text(output / f"{name}.md", text)
        print(text)
    write_text(output / "report.html", report_page(results, table1, table2))
    print(f"reported: {output / 'report.html'}", file=sys.stderr)


if __name__ == "__main__":
    run_command(report)
