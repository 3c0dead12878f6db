"""The study's analyses of its bias vectors, computed again from the vectors or, where these do not suffice, checked."""

from collections.abc import Mapping
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from analysis.biases import BiasStatistics, describe_biases
from analysis.chance import chance_alignment
from analysis.study.compared import Compared
from analysis.study.layout import CategoryShift, PcaAlignment, StateShifts, StudyBias
from analysis.study.read import Study
from search_spaces.sites import Site
from search_spaces.sources import Config

_STUDY_EPSILON = 1e-12  # what the study adds to sd^4, which is itself about that large


class BiasRow(Config):
    """One bias vector.

    Attributes:
        rank: by norm, 1 the largest; the study's from its own ranking.
        kurtosis: excess kurtosis as the study computes it, over sd^4 + 1e-12, which pulls it towards -3.
        excess_kurtosis: the right one, over sd^4.
    """

    site: str
    width: int
    rank: Compared
    norm: Compared
    mean: Compared
    sd: Compared
    max_abs: Compared
    positive_fraction: Compared
    kurtosis: Compared
    excess_kurtosis: float


class PairRow(Config):
    """The two checkpoints at one site; the norms are of the analysed one and of the other."""

    site: str
    cosine: Compared
    l2: Compared


class AlignmentRow(Config):
    """Alignment of one bias with the principal components.

    Attributes:
        cosines: the study's, with sign. best: index of the largest, from 0.
        p_value: chance of a random direction to align at least as well.
    """

    site: str
    cosines: tuple[float, ...]
    max_alignment: Compared
    best: Compared
    p_value: float


class Alignments(Config):
    """PCA alignment against chance.

    Attributes:
        chance_mean, chance_low, chance_high: of the largest |cosine| of a random direction: its mean, 5th and 95th
            percentile.
        p_value: of the best aligned of all sites, corrected for their number (Bonferroni).
    """

    width: int
    components: int
    draws: int
    chance_mean: float
    chance_low: float
    chance_high: float
    rows: tuple[AlignmentRow, ...]
    p_value: float


class ShiftRow(Config):
    """L2 distance of a site's hidden states to the dense ones; the study's, which the vectors alone cannot give."""

    site: str
    teal: float
    spon: float
    recovery_pct: float


class Shifts(Config):
    """Hidden-state shifts.

    Attributes:
        mean_recovery_pct: mean of the sites' percentages. recovery_of_means_pct: percentage of the mean shifts, in
            which a site with a small shift does not weigh as much as one with a large.
    """

    rows: tuple[ShiftRow, ...]
    mean_teal: Compared
    mean_spon: Compared
    mean_recovery_pct: Compared
    recovery_of_means_pct: float


class CategoryRow(Config):
    """Means over sites for one prompt category."""

    category: str
    l2: Compared
    cka: Compared


def bias_rows(
    biases: Mapping[Site, Tensor], stored: Mapping[str, StudyBias], ranking: tuple[str, ...]
) -> tuple[BiasRow, ...]:
    """Statistics of every vector beside the study's.

    Args:
        biases: vector of each site.
        stored: the study's statistics by site; may be empty.
        ranking: the study's sites from the largest norm down; may be empty.
    """
    return tuple(
        _bias_row(found, biases[found.site], stored.get(str(found.site)), ranking) for found in describe_biases(biases)
    )


def _bias_row(found: BiasStatistics, vector: Tensor, stored: StudyBias | None, ranking: tuple[str, ...]) -> BiasRow:
    def beside(key: str, ours: float) -> Compared:
        return Compared(study=None if stored is None else getattr(stored, key), ours=ours)

    site = str(found.site)
    return BiasRow(
        site=site,
        width=len(vector),
        rank=Compared(study=ranking.index(site) + 1 if site in ranking else None, ours=found.rank),
        norm=beside("l2_norm", found.norm),
        mean=beside("mean", found.mean),
        sd=beside("std", found.sd),
        max_abs=beside("max_abs", found.max_abs),
        positive_fraction=beside("pos_frac", found.positive_fraction),
        kurtosis=beside("kurtosis", study_kurtosis(found)),
        excess_kurtosis=found.excess_kurtosis,
    )


def study_kurtosis(found: BiasStatistics) -> float:
    """Excess kurtosis with the study's denominator, sd^4 + 1e-12 in the place of sd^4."""
    fourth, sd4 = found.excess_kurtosis + 3, found.sd**4
    return fourth * sd4 / (sd4 + _STUDY_EPSILON) - 3


def pair_rows(study: Study) -> tuple[PairRow, ...]:
    """Cosine and distance of the two checkpoints at the sites that they share."""
    rows = []
    for site, stored in study.interpretability.cross_config_comparison.sites.items():
        one, other = (it.biases[Site.parse(site)].double() for it in (study.analysed, study.other))
        cosine = torch.cosine_similarity(one, other, dim=0).item()
        rows.append(
            PairRow(
                site=site,
                cosine=Compared(study=stored.cosine_similarity, ours=cosine),
                l2=Compared(study=stored.l2_difference, ours=(one - other).norm().item()),
            )
        )
    return tuple(rows)


def alignments(stored: Mapping[str, PcaAlignment], width: int, draws: int = 100_000, seed: int = 0) -> Alignments:
    """The study's alignments against those of random directions of the same width.

    Args:
        stored: by site, all with as many components.
        width: entries of a bias.
        draws: random directions.
        seed: of the draws.
    """
    components = max(len(alignment.pc_similarities) for alignment in stored.values())
    chance = chance_alignment(width, components, draws, seed)
    rows = []
    for site, alignment in stored.items():
        sizes = np.abs(alignment.pc_similarities)
        rows.append(
            AlignmentRow(
                site=site,
                cosines=alignment.pc_similarities,
                max_alignment=Compared(study=alignment.max_alignment, ours=float(sizes.max())),
                best=Compared(study=alignment.best_pc, ours=int(sizes.argmax())),
                p_value=chance.p_value(float(sizes.max())),
            )
        )
    return Alignments(
        width=width,
        components=components,
        draws=draws,
        chance_mean=chance.mean,
        chance_low=float(np.quantile(chance.samples, 0.05)),
        chance_high=chance.percentile95,
        rows=tuple(rows),
        p_value=min(1.0, len(rows) * min(row.p_value for row in rows)),
    )


def shifts(stored: StateShifts) -> Shifts:
    """The study's hidden-state shifts, with means computed again."""
    rows = tuple(
        ShiftRow(
            site=site,
            teal=shift.teal_shift_l2,
            spon=shift.spon_shift_l2,
            recovery_pct=shift.recovery_pct,
        )
        for site, shift in stored.sites.items()
    )
    teal, spon, said = fmean(row.teal for row in rows), fmean(row.spon for row in rows), stored.aggregate
    return Shifts(
        rows=rows,
        mean_teal=Compared(study=said.avg_teal_shift, ours=teal),
        mean_spon=Compared(study=said.avg_spon_shift, ours=spon),
        mean_recovery_pct=Compared(study=said.avg_recovery_pct, ours=fmean(row.recovery_pct for row in rows)),
        recovery_of_means_pct=100 * (1 - spon / teal),
    )


def category_rows(stored: Mapping[str, CategoryShift]) -> tuple[CategoryRow, ...]:
    """Means over sites of the study's category shifts, computed again."""
    return tuple(
        CategoryRow(
            category=name,
            l2=Compared(study=category.avg_l2, ours=fmean(category.l2_shifts.values())),
            cka=Compared(study=category.avg_cka, ours=fmean(category.cka_scores.values())),
        )
        for name, category in stored.items()
    )
