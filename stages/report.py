"""Write the report: one HTML file that holds everything and asks for nothing from outside."""

from wellcheck import experiments, params, provenance, stage
from wellcheck.artifacts import write_text
from wellcheck.report.evidence import Files, gather
from wellcheck.report.page import render
from wellcheck.stage import Output


def main(*, files: Files, report: Output) -> str:
    settings = params.load(params.Params)
    name = settings.report.experiment
    page = render(gather(files), settings, provenance.gather(), experiments.read(name) if name else None)
    write_text(report, page)
    return f"{report}, {len(page.encode()) / 1e6:.1f} MB"


if __name__ == "__main__":
    stage.run(main)
