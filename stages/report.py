"""Write the report: one HTML file that holds everything and asks for nothing from outside."""

from wellcheck import experiments, params, provenance, stage
from wellcheck.artifacts import write_text
from wellcheck.report.evidence import Files, gather
from wellcheck.report.page import render
from wellcheck.stage import Input, Output


def main(
    *,
    clean_train: Input,
    poisoned_train: Input,
    test: Input,
    triggered: Input,
    outcomes: Input,
    predictions: Input,
    clean_model: Input,
    poisoned_model: Input,
    clean_map: Input,
    poisoned_map: Input,
    scores: Input,
    planted: Input,
    classify: Input,
    detection: Input,
    roc: Input,
    report: Output,
) -> str:
    files = Files(
        clean_train=clean_train,
        poisoned_train=poisoned_train,
        test=test,
        triggered=triggered,
        outcomes=outcomes,
        predictions=predictions,
        clean_model=clean_model,
        poisoned_model=poisoned_model,
        clean_map=clean_map,
        poisoned_map=poisoned_map,
        scores=scores,
        planted=planted,
        classify=classify,
        detection=detection,
        roc=roc,
    )
    settings = params.load(params.Params)
    name = settings.report.experiment
    page = render(gather(files), settings, provenance.gather(), experiments.read(name) if name else None)
    write_text(report, page)
    return f"{report}, {len(page.encode()) / 1e6:.1f} MB"


if __name__ == "__main__":
    stage.run(main)
