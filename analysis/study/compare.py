"""The study's results beside the same figures computed here: the one object that tables and figures are made of."""

from statistics import fmean

from analysis.study.compared import Compared
from analysis.study.perplexity import Sweep, compare_sweep
from analysis.study.read import Study
from analysis.study.trials import Trials
from analysis.study.vectors import (
    Alignments,
    BiasRow,
    CategoryRow,
    PairRow,
    Shifts,
    alignments,
    bias_rows,
    category_rows,
    pair_rows,
    shifts,
)
from search_spaces.sources import Config

SCHEMA_VERSION = 1


class StudyComparison(Config):
    """What ``study.json`` holds.

    Attributes:
        analysed, other: name of the trial whose biases the study analyses, and of the one it compares them with.
        biases: statistics of each checkpoint's vectors, by trial.
        mean_cosine: over the sites that the two share.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    model: str
    analysed: str
    other: str
    sweep: Sweep
    biases: dict[str, tuple[BiasRow, ...]]
    pairs: tuple[PairRow, ...]
    mean_cosine: Compared
    alignments: Alignments
    categories: tuple[CategoryRow, ...]
    shifts: Shifts


def compare(study: Study, trials: Trials) -> StudyComparison:
    """Compute everything again that the study's files allow.

    Args:
        study: as read.
        trials: its runs as trials of this repository.

    Raises:
        SponError: if its runs disagree about a baseline.
    """
    said, analysed = study.interpretability, study.analysed
    ranking = tuple(place.layer for place in said.bias_norm_ranking)
    pairs = pair_rows(study)
    return StudyComparison(
        run_id=study.results.run_id,
        model=study.results.config.model_name,
        analysed=analysed.name,
        other=study.other.name,
        sweep=compare_sweep(study.results, study.pareto, trials),
        biases={
            it.name: bias_rows(it.biases, said.bias_statistics, ranking)
            if it is analysed
            else bias_rows(it.biases, {}, ())
            for it in study.checkpoints.values()
        },
        pairs=pairs,
        mean_cosine=Compared(
            study=said.cross_config_comparison.aggregate.avg_cosine_similarity, ours=fmean(p.cosine.ours for p in pairs)
        ),
        alignments=alignments(said.pca_alignments, len(next(iter(analysed.biases.values())))),
        categories=category_rows(said.category_analysis),
        shifts=shifts(said.hidden_state_shifts),
    )
